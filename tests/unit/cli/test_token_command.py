"""``broker token``: what an agent gets, and how a refusal is told."""

from __future__ import annotations

from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.broker_app import HERE, PAYMENTS, TICKETS
from tests.support.broker_thread import BrokerThread
from tests.support.shell import Shell, write_private_key


def _claims(token: str) -> dict[str, object]:
    return dict(jwt.decode(token, options={"verify_signature": False}))


def test_the_token_and_nothing_else(shell: Shell, broker: BrokerThread, alpha: Path) -> None:
    """Standard output is the token alone, so that a shell can take it; it is what was asked for."""
    arguments = ("--audience", TICKETS, "--scope", "tickets:read")
    done = shell("token", "--agent", "alpha", "--key", alpha, *arguments)
    assert (done.code, done.err) == (0, "")
    claims = _claims(done.out.strip())
    assert (claims["sub"], claims["aud"], claims["scope"]) == ("alpha", TICKETS, "tickets:read")


def test_the_whole_answer(shell: Shell, broker: BrokerThread, alpha: Path) -> None:
    """With --json everything that the broker answered is there."""
    arguments = ("--audience", TICKETS, "--scope", "tickets:read", "--json")
    answer = shell("token", "--agent", "alpha", "--key", alpha, *arguments).json
    assert answer["token_type"] == "Bearer"
    assert answer["expires_in"] == 900
    assert answer["scope"] == "tickets:read"
    assert _claims(answer["access_token"])["iss"] == broker.issuer


def test_refusals_name_their_record(shell: Shell, broker: BrokerThread, alpha: Path) -> None:
    """What the policy does not allow ends with 1, the reason, and the reference to ask an operator about."""
    done = shell("token", "--agent", "alpha", "--key", alpha, "--audience", TICKETS, "--scope", "tickets:delete")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("broker: scope_not_allowed: ")
    refusal = broker.entries("token.refused")[-1]["ref"]
    assert f"broker policy explain --refusal {refusal}" in done.err


def test_approval(shell: Shell, broker: BrokerThread, alpha: Path) -> None:
    """What a person must approve first is asked for, and who will not wait is told what for; a reason does not help."""
    arguments = ("--agent", "alpha", "--key", alpha, "--audience", PAYMENTS, "--scope", "refunds:create")
    done = shell("token", *arguments, "--wait", "0")
    assert done.code == 7
    (waiting,) = broker.entries("approval.requested")
    assert f"broker approvals show {waiting['ref']}" in done.err
    assert f"--auth-req-id {waiting['ref']}" in done.err
    refused = shell("token", *arguments, "--break-glass", "no time")
    assert (refused.code, refused.err.split(": ")[1]) == (1, "break_glass_not_allowed")


def test_a_task_and_its_tokens(shell: Shell, broker: BrokerThread, alpha: Path) -> None:
    """A task that nobody opened is refused; --exchange gets a part of a token, and a file that is none is refused."""
    arguments = ("--agent", "alpha", "--key", alpha, "--audience", TICKETS, "--scope", "tickets:read")
    assert shell("token", *arguments, "--task", "T-8812").err.startswith("broker: task_not_open: ")
    whole = alpha.parent / "whole.jwt"
    whole.write_text(shell("token", *arguments).out)
    part = _claims(shell("token", *arguments, "--exchange", whole).out.strip())
    assert part["broker"]["parents"] == [_claims(whole.read_text().strip())["jti"]]  # type: ignore[index]
    answer = shell("token", *arguments, "--exchange", whole, "--json").json
    assert answer["issued_token_type"] == "urn:ietf:params:oauth:token-type:access_token"
    as_id_token = shell("token", *arguments, "--exchange", whole, "--exchange-type", "id_token")
    assert as_id_token.err.startswith("broker: subject_token_invalid: ")


def test_a_type_of_nothing(shell: Shell, alpha: Path) -> None:
    """The type says what is exchanged; without that, and beside an identity token, it is a mistake."""
    arguments = ("--agent", "alpha", "--key", alpha, "--exchange-type", "jwt", "--issuer-url", "http://127.0.0.1:9")
    assert shell("token", *arguments, "--audience", TICKETS).code == 2
    assert shell("token", *arguments, "--identity-token", "vault", "--exchange", alpha).code == 2
    assert shell("token", *arguments[:4], "--exchange-type", "saml", "--audience", TICKETS).code == 2


@pytest.mark.parametrize(
    "content", [b"", b"  \n", b"one two", b"\xff\xfe", "tök".encode(), b"a\x1bb", b"x" * (16 * 1024 + 1)]
)
def test_files_that_hold_no_token(shell: Shell, broker: BrokerThread, alpha: Path, content: bytes) -> None:
    """What cannot be a token is not sent anywhere, and not repeated."""
    file = alpha.parent / "whole.jwt"
    file.write_bytes(content)
    arguments = ("--agent", "alpha", "--key", alpha, "--audience", TICKETS, "--scope", "tickets:read")
    done = shell("token", *arguments, "--exchange", file)
    assert done.code == 2
    assert done.err.startswith("broker: usage: --exchange: ")
    assert shell("token", *arguments, "--exchange", alpha.parent / "nothing").code == 2


@pytest.mark.parametrize("details", ["", "{", "{}", "[1]", '["a"]', "[NaN]", '[{"type": "x", "n": NaN}]'])
def test_details_that_are_none(shell: Shell, broker: BrokerThread, alpha: Path, details: str) -> None:
    """Authorization details are a JSON array of objects."""
    arguments = ("--agent", "alpha", "--key", alpha, "--audience", TICKETS, "--scope", "tickets:read")
    assert shell("token", *arguments, "--details", details).code == 2


def test_the_wrong_key(shell: Shell, broker: BrokerThread, tmp_path: Path) -> None:
    """A key that is not the agent's ends with 5: nobody was signed in."""
    stranger = write_private_key(tmp_path / "x.pem", ec.generate_private_key(ec.SECP256R1()))
    done = shell("token", "--agent", "alpha", "--key", stranger, "--audience", TICKETS, "--scope", "tickets:read")
    assert done.code == 5


def test_bound_to_the_own_key(shell: Shell, broker: BrokerThread, alpha: Path) -> None:
    """--dpop binds the token to the agent's key; a tier that demands it is satisfied."""
    arguments = ("--audience", TICKETS, "--scope", "tickets:comment")
    assert shell("token", "--agent", "alpha", "--key", alpha, *arguments).code == 1
    answer = shell("token", "--agent", "alpha", "--key", alpha, *arguments, "--dpop", "--json").json
    assert answer["token_type"] == "DPoP"
    assert _claims(answer["access_token"])["cnf"] == {"jkt": broker.app.kid("alpha")}


def test_bound_to_another_key(shell: Shell, broker: BrokerThread, alpha: Path, tmp_path: Path) -> None:
    """--dpop-key makes a key file when there is none, and uses it when there is one."""
    other = tmp_path / "dpop.pem"
    arguments = ("token", "--agent", "alpha", "--key", alpha, "--audience", TICKETS, "--dpop-key", other, "--json")
    first, second = (_claims(shell(*arguments, "--scope", "tickets:read").json["access_token"]) for _ in range(2))
    assert first["cnf"] == second["cnf"]
    assert first["cnf"] != {"jkt": broker.app.kid("alpha")}


def test_keys_that_cannot_be_bound_to(shell: Shell, broker: BrokerThread, tmp_path: Path) -> None:
    """A key on another curve is refused before anything is asked."""
    key = write_private_key(tmp_path / "p384.pem", ec.generate_private_key(ec.SECP384R1()))
    done = shell("token", "--agent", "alpha", "--key", key, "--audience", TICKETS, "--dpop")
    assert done.code == 2
    assert "P-256" in done.err


def test_the_operators_own_token(shell: Shell, broker: BrokerThread) -> None:
    """An operator gets a token for the broker's API like everybody else, by the name that the policy has for it."""
    key = broker.folder / "operator.pem"
    arguments = ("--audience", "broker", "--scope", "operator:read", "--scope", "ledger:read")
    done = shell("token", "--agent", "operator", "--key", key, *arguments)
    assert _claims(done.out.strip())["aud"] == f"{broker.issuer}/v1"
    assert _claims(done.out.strip())["scope"] == "ledger:read operator:read"


@pytest.mark.parametrize(
    "extra",
    [("--audience", ""), ("--audience", TICKETS, "--task", "a\x1bb"), ("--audience", TICKETS, "--may-act", "\udcff")],
)
def test_impossible_requests(shell: Shell, broker: BrokerThread, alpha: Path, extra: tuple[str, ...]) -> None:
    """What cannot be asked for is refused in one line, without a control character."""
    done = shell("token", "--agent", "alpha", "--key", alpha, *extra, "--scope", "tickets:read")
    assert done.code in {1, 2}
    assert done.err.count("\n") == 1
    assert "\x1b" not in done.err


def test_an_identity_token(shell: Shell, broker: BrokerThread, alpha: Path, tmp_path: Path) -> None:
    """It says who the agent is, to others; it comes of a token of the agent's own, or of one that it was handed."""
    policy = broker.app.broker.config.policy
    lines = 'allow:\n      - {identity_token: vault}\n      - {audience: broker, scopes: ["identity:issue"]}\n'
    policy.write_text(policy.read_text().replace("allow:\n", lines, 1))
    broker.run(broker.app.broker.policy_control.reload(by="operator", caller=HERE))
    agent = ("token", "--agent", "alpha", "--key", alpha)
    done = shell(*agent, "--identity-token", "vault")
    assert (done.code, done.err) == (0, "")
    claims = _claims(done.out.strip())
    assert (claims["sub"], claims["aud"], claims["agent"]) == ("alpha", "vault", "alpha")
    handed = tmp_path / "handed"
    handed.write_text(shell(*agent, "--audience", "broker", "--scope", "identity:issue").out)
    answer = shell(*agent, "--identity-token", "vault", "--exchange", handed, "--json").json
    assert (answer["token_type"], answer["issued_token_type"]) == ("N_A", "urn:ietf:params:oauth:token-type:jwt")
    assert "scope" not in answer
    refused = shell(*agent, "--identity-token", "nobody")
    assert (refused.code, refused.err.split(": ")[1]) == (1, "audience_not_allowed")
    explained = shell("policy", "explain", "--refusal", broker.entries("identity_token.refused")[-1]["ref"])
    assert "identity_token.refused" in explained.err


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--identity-token", "vault", "--audience", TICKETS),
        ("--identity-token", "vault", "--scope", "tickets:read"),
        ("--identity-token", "vault", "--may-act", "beta"),
        ("--identity-token", "vault", "--break-glass", "now"),
    ],
)
def test_an_audience_or_an_identity_token(
    shell: Shell, broker: BrokerThread, alpha: Path, arguments: tuple[str, ...]
) -> None:
    """One of both, and nothing besides that an identity token cannot have."""
    done = shell("token", "--agent", "alpha", "--key", alpha, *arguments)
    assert (done.code, done.out) == (2, "")
    assert "--identity-token" in done.err
    assert not broker.entries("token.issued")
