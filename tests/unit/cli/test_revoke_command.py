"""``broker revoke`` and ``broker blocks``: what is covered, what is told, and how it ends."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from broker.cli import revoke
from broker.cli.session import Session
from broker.client import Client, KeyIdentity
from broker.clock import SystemClock
from broker.core.change import Change, Receipt
from broker.core.errors import Code, Unavailable
from broker.http.surface import Services
from broker.ids import RandomIds
from broker.outbound import PUBLIC, Destination, Outbound, Reply
from broker.revocation import Revocation
from broker.wiring.place import NoSiblings
from tests.support.broker_app import TICKETS, Template, running_app
from tests.support.broker_thread import BrokerThread, broker_thread
from tests.support.shell import Shell


class Terminal(io.StringIO):
    """A terminal at which somebody has typed."""

    def isatty(self) -> bool:
        """Always."""
        return True


class BrokenLedger:
    """A ledger whose disk is full."""

    async def commit(self, change: Change) -> Receipt:
        """Fail."""
        raise Unavailable(Code.LEDGER_UNAVAILABLE, "the disk is full")


class LossyOutbound(Outbound):
    """A connection that breaks after the first revocation was sent, before its answer came."""

    lost = False

    async def post(
        self,
        url: str,
        body: bytes,
        destination: Destination = PUBLIC,
        *,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = 65_536,
    ) -> Reply:
        """Send, and lose the first answer."""
        reply = await super().post(url, body, destination, headers=headers, max_bytes=max_bytes)
        if not self.lost:
            self.lost = True
            raise Unavailable(Code.ISSUER_UNAVAILABLE, "the peer could not be asked")
        return reply


def _type(monkeypatch: pytest.MonkeyPatch, text: str) -> Terminal:
    errors = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal(text))
    monkeypatch.setattr(sys, "stderr", errors)
    return errors


def _is_good(broker: BrokerThread, token: str) -> bool:
    async def ask() -> bool:
        operator = await broker.app.operator("operator:read")
        reply = await broker.app.call("POST", "/oauth2/introspect", token=operator, data={"token": token})
        return bool(reply.json["active"])

    return broker.run(ask())


def _token(broker: BrokerThread, agent: str = "alpha", **parameters: str) -> str:
    return broker.run(broker.app.token(agent, **parameters))


def _claims(token: str) -> Any:  # noqa: ANN401 - JSON
    return jwt.decode(token, options={"verify_signature": False})


def test_preview_changes_nothing(shell: Shell, broker: BrokerThread) -> None:
    """A preview counts what would be hit, needs no reason, and leaves every token alive."""
    tokens = [_token(broker) for _ in range(3)]
    answer = shell("revoke", "--role", "support", "--preview", "--json").json
    assert answer["hits"]["tokens"] == 3
    assert "nothing was changed" in shell("revoke", "--role", "support", "--preview").out
    assert all(_is_good(broker, token) for token in tokens)
    assert not broker.entries("rule.added")


def test_a_revocation_says_what_it_did(shell: Shell, broker: BrokerThread) -> None:
    """The tokens are dead, the answer says how many, and the ledger knows who, why and for which incident."""
    tokens = [_token(broker) for _ in range(3)]
    arguments = ("--agent", "alpha", "--reason", "prompt injection", "--incident", "INC-77")
    done = shell("revoke", *arguments, "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json["hits"]["tokens"] == 3
    assert done.json["durable"] is True
    assert not any(_is_good(broker, token) for token in tokens)
    entry = broker.entries("rule.added")[-1]
    assert (entry["by"], entry["reason"], entry["incident"]) == ("operator", "prompt injection", "INC-77")


def test_it_is_told_in_words(shell: Shell, broker: BrokerThread) -> None:
    """The summary names the rule, what it covers, and the hits."""
    _token(broker)
    out = shell("revoke", "--agent", "alpha", "--scope", "tickets:read", "--reason", "test").out
    assert out.startswith("Revoked: rule 1\n")
    assert "agent alpha, scope tickets:read" in out
    assert [line.split()[-1] for line in out.splitlines() if line.strip().startswith("tokens:")] == ["1"]


@pytest.mark.parametrize(
    ("options", "dies"),
    [
        (("--agent", "alpha"), True),
        (("--agent", "beta"), False),
        (("--task", "TASK"), True),
        (("--role", "support"), True),
        (("--issuer", "registered"), True),
        (("--scope", "tickets:read"), True),
        (("--audience", TICKETS), True),
        (("--tier", "read"), True),
        (("--agent", "alpha", "--tier", "write"), False),
        (("--everything", "--yes"), True),
    ],
)
def test_selectors(shell: Shell, broker: BrokerThread, options: tuple[str, ...], dies: bool) -> None:
    """Each option selects by its field, and options are ANDed."""
    token = _token(broker)
    task = _claims(token)["broker"]["task"]
    options = tuple(option.replace("TASK", task) for option in options)
    assert shell("revoke", *options, "--reason", "test").code == 0
    assert _is_good(broker, token) is not dies


def test_by_key_and_by_id(shell: Shell, broker: BrokerThread) -> None:
    """A token's own id ends that token alone; the id of the signing key ends all that it signed."""
    first, second = _token(broker), _token(broker)
    assert shell("revoke", "--token", _claims(first)["jti"], "--reason", "test").code == 0
    assert [_is_good(broker, token) for token in (first, second)] == [False, True]
    assert shell("revoke", "--key", jwt.get_unverified_header(second)["kid"], "--reason", "test").code == 0
    assert not _is_good(broker, second)


def test_a_whole_token_that_was_found(shell: Shell, broker: BrokerThread, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever finds a token in a log can hand it over whole, also by a pipe; no other token dies."""
    first, second = _token(broker), _token(broker)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(first.encode() + b"\n")))
    done = shell("revoke", "--token", "-", "--reason", "found in a log", "--json")
    assert done.json["selector"] == {"token": _claims(first)["jti"]}
    assert first not in done.out
    assert [_is_good(broker, token) for token in (first, second)] == [False, True]


def test_a_forged_token_kills_nothing(shell: Shell, broker: BrokerThread) -> None:
    """A token that somebody else signed, planted to have another one revoked, is refused."""
    token = _token(broker)
    key = ec.generate_private_key(ec.SECP256R1())
    header = jwt.get_unverified_header(token)
    forged = jwt.encode(_claims(token), key, algorithm="ES256", headers={"typ": "at+jwt", "kid": header["kid"]})
    done = shell("revoke", "--token", forged, "--reason", "found in a log")
    assert done.code == 2
    assert done.err.startswith("broker: token_invalid: ")
    assert _is_good(broker, token)


def test_the_apis_own_audience(shell: Shell, broker: BrokerThread) -> None:
    """``--audience broker`` means what it means in the policy."""
    answer = shell("revoke", "--audience", "broker", "--preview", "--json").json
    assert answer["selector"] == {"audience": f"{broker.issuer}/v1"}
    assert answer["hits"]["tokens"] >= 1


def test_blocks(shell: Shell, broker: BrokerThread) -> None:
    """A block refuses new grants, is in the list, and lets them through again once it is lifted."""
    assert shell("blocks", "list").out == "No blocks are in force.\n"
    arguments = ("--agent", "alpha", "--block", "--for", "1h", "--reason", "look into it")
    block = shell("revoke", *arguments, "--json").json["block"]
    assert block["until"] is not None
    listed = shell("blocks", "list")
    assert block["id"] in listed.out
    assert "agent alpha" in listed.out
    reply = broker.run(broker.app.ask(broker.app.form("alpha", audience=TICKETS, scope="tickets:read")))
    assert reply.json["code"] == "blocked"
    lifted = shell("blocks", "lift", block["id"], "--reason", "it was a drill")
    assert lifted.code == 0
    assert broker.entries("block.lifted")[-1]["reason"] == "it was a drill"
    assert _is_good(broker, _token(broker))
    again = shell("blocks", "lift", block["id"])
    assert (again.code, again.err.startswith("broker: not_found: ")) == (1, True)


def test_a_block_without_end(shell: Shell, broker: BrokerThread) -> None:
    """Without --for a block lasts until it is lifted, and the answer says how."""
    done = shell("revoke", "--agent", "alpha", "--block", "--reason", "test")
    assert "refused until it is lifted" in done.out
    assert "broker blocks lift blk_" in done.out


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--reason", "x"),
        ("--agent", "alpha"),
        ("--agent", "alpha", "--everything", "--reason", "x"),
        ("--agent", "alpha", "--for", "1h", "--reason", "x"),
        ("--agent", "alpha", "--block", "--for", "soon", "--reason", "x"),
        ("--agent", "a\x1bb", "--reason", "x"),
        ("--agent", "", "--reason", "x"),
    ],
)
def test_orders_that_make_no_sense(shell: Shell, broker: BrokerThread, arguments: tuple[str, ...]) -> None:
    """Nothing named, no reason, both something and everything, a duration for no block: refused, nothing is made."""
    done = shell("revoke", *arguments)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert not broker.entries("rule.added")


def test_everything_is_asked_about_at_a_terminal(
    shell: Shell, broker: BrokerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a terminal, --everything asks first; no is the answer that nothing was revoked, yes goes on."""
    errors = _type(monkeypatch, "n\n")
    assert shell("revoke", "--everything", "--reason", "test").code == 1
    assert "every credential of every agent" in errors.getvalue()
    assert "nothing was revoked" in errors.getvalue()
    assert not broker.entries("rule.added")
    _type(monkeypatch, "y\n")
    assert shell("revoke", "--everything", "--reason", "test").code == 0
    assert len(broker.entries("rule.added")) == 1


def test_nothing_else_is_asked(shell: Shell, broker: BrokerThread, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an incident no question stands in the way: not for an agent, not with --yes, not in a script."""
    errors = _type(monkeypatch, "")
    assert shell("revoke", "--agent", "alpha", "--reason", "test").code == 0
    assert shell("revoke", "--everything", "--yes", "--reason", "test").code == 0
    assert errors.getvalue() == ""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert shell("revoke", "--everything", "--reason", "test").code == 0


def _not_durable(services: Services) -> Services:
    revocation = Revocation(
        revocations=services.revocations,
        siblings=NoSiblings(),
        ledger=BrokenLedger(),
        records=services.records,
        clock=SystemClock(),
        ids=RandomIds(),
        meter=services.metrics,
        events=services.events,
    )
    return replace(services, revocation=revocation)


def test_in_force_but_not_durable(
    shell: Shell, template: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the ledger cannot be written, the tokens are dead all the same; the exit code and the text tell."""
    with broker_thread(template, tmp_path / "home", adjust=_not_durable) as broker:
        monkeypatch.setenv("BROKER_CONFIG", str(broker.config))
        monkeypatch.setenv("BROKER_PORT", str(broker.port))
        token = _token(broker)
        done = shell("revoke", "--agent", "alpha", "--reason", "test")
        assert done.code == 6
        assert "the ledger could not be written" in done.out
        assert not _is_good(broker, token)
        assert shell("revoke", "--agent", "alpha", "--reason", "test", "--json").json["durable"] is False


async def test_a_lost_answer_is_asked_for_again(template: Template, tmp_path: Path) -> None:
    """If the answer is lost on its way, the order is sent again and carried out once."""
    async with running_app(template, tmp_path / "home") as app, LossyOutbound() as http:
        identity = KeyIdentity("operator", template.keys["operator"])
        async with Client(app.issuer, identity=identity, dpop=True) as client:
            session = Session(app.issuer, client, http)
            answer = await revoke.revoke(session, {"selector": {"agent": "alpha"}, "reason": "test"})
        assert http.lost
        assert answer["durable"] is True
        assert len(await app.entries("rule.added")) == 1


def test_who_may_not_look_may_still_revoke(shell: Shell, broker: BrokerThread, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator with revocations:write alone can revoke: nothing else is needed for it."""
    policy = broker.folder / "policy.yaml"
    lines = policy.read_text().splitlines(keepends=True)
    policy.write_text("".join(line for line in lines if '"operator:read"' not in line))
    assert shell("policy", "reload").code == 0
    assert shell("blocks", "list").code == 5
    done = shell("revoke", "--agent", "alpha", "--reason", "test", "--json")
    assert (done.code, json.loads(done.out)["durable"]) == (0, True)
