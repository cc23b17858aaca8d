"""Identity tokens as they are signed, judged by another library and by the broker's own check."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from broker.core.access_token import verify_access_token
from broker.core.errors import BrokerError, Code, Unavailable
from broker.core.identity_token import IdentityClaims
from broker.core.jwt import InvalidToken
from broker.core.secret import Secret
from broker.ports import IdentitySigner
from broker.signing.identity_token import IdentityTokenSigner
from broker.signing.keyring import KeyRing
from broker.signing.private_key import SigningKey
from broker.signing.sealing import Sealer
from tests.support.fakes import CountingIds, FakeClock

ISSUER = "https://broker.example"
AWS = "sts.amazonaws.com"
CLOCK = FakeClock()
NOW = CLOCK.now()
CLAIMS = IdentityClaims(
    iss=ISSUER,
    sub="planner",
    aud="vault",
    iat=int(NOW),
    exp=int(NOW) + 300,
    jti="idt_1",
    agent="prod-cluster/support/triage",
    task="task_1",
    role="support",
    actors=("prod-cluster/support/triage", "helper"),
    more={"env": "prod"},
    groups=("a", "b"),
)


@pytest.fixture(scope="module")
def ring() -> KeyRing:
    """A ring with one key of each kind."""
    ring = KeyRing((), Sealer(Secret(bytes(32))), longest_token=900)
    ring.replace(ring.missing(NOW))
    return ring


@pytest.fixture
def signer(ring: KeyRing) -> IdentityTokenSigner:
    """What is under test."""
    return IdentityTokenSigner(ring, CLOCK, CountingIds(), issuer=ISSUER)


def opened(ring: KeyRing, token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Verify a token with another library; return its header and its claims."""
    read = jwt.decode(token, KeySet.import_key_set(ring.jwks(NOW)), algorithms=["ES256"])  # type: ignore[arg-type]
    return dict(read.header), dict(read.claims)


def test_what_it_says(ring: KeyRing, signer: IdentitySigner) -> None:
    """Flat claims for Vault, groups for Kubernetes, the line of actors, and what the policy adds."""
    header, claims = opened(ring, signer.mint_checked(CLAIMS, NOW).token)
    assert (header["typ"], header["alg"]) == ("JWT", "ES256")
    assert claims == {
        "iss": ISSUER,
        "sub": "planner",
        "aud": "vault",
        "iat": int(NOW),
        "nbf": int(NOW),
        "exp": int(NOW) + 300,
        "jti": "idt_1",
        "agent": "prod-cluster/support/triage",
        "task": "task_1",
        "role": "support",
        "act": {"sub": "prod-cluster/support/triage", "act": {"sub": "helper"}},
        "groups": ["a", "b"],
        "env": "prod",
    }


def test_nothing_of_the_policy_replaces_a_claim(ring: KeyRing, signer: IdentitySigner) -> None:
    """Even claims that no policy could have are overruled by those of the broker."""
    _, claims = opened(ring, signer.mint_checked(replace(CLAIMS, more={"sub": "root", "role": "x"}), NOW).token)
    assert (claims["sub"], claims["role"]) == ("planner", "support")


def test_tags_for_aws(ring: KeyRing, signer: IdentitySigner) -> None:
    """A session at AWS is tagged with agent and task, for good, and names its source."""
    _, claims = opened(ring, signer.mint_checked(replace(CLAIMS, aud=AWS), NOW).token)
    assert claims["https://aws.amazon.com/tags"] == {
        "principal_tags": {"agent": ["prod-cluster/support/triage"], "task": ["task_1"]},
        "transitive_tag_keys": ["agent", "task"],
    }
    assert claims["https://aws.amazon.com/source_identity"].startswith("prod-cluster-support-triage=")
    assert not any(name.startswith("https://") for name in opened(ring, signer.mint_checked(CLAIMS, NOW).token)[1])


async def test_the_brokers_own(ring: KeyRing, signer: IdentityTokenSigner) -> None:
    """It says who it is and for whom, for five minutes, no more; two are never the same; it is a secret."""
    secret = await signer.own_token("https://vault.internal")
    _, claims = opened(ring, secret.reveal().decode())
    assert claims.pop("jti") != opened(ring, (await signer.own_token("x")).reveal().decode())[1]["jti"]
    assert claims == {
        "iss": ISSUER,
        "sub": "broker",
        "aud": "https://vault.internal",
        "iat": int(NOW),
        "nbf": int(NOW),
        "exp": int(NOW) + 300,
    }
    assert isinstance(secret, Secret)


async def test_it_is_never_an_access_token(ring: KeyRing, signer: IdentityTokenSigner) -> None:
    """Whoever takes access tokens refuses its type, whatever it says."""
    own = (await signer.own_token("https://tickets.internal")).reveal().decode()
    for token in (signer.mint_checked(CLAIMS, NOW).token, own):
        with pytest.raises(InvalidToken) as caught:
            verify_access_token(token, ring.verification_keys(NOW), issuer=ISSUER, audience=None, now=NOW)
        assert caught.value.why == "typ"


@pytest.mark.parametrize(
    "unfit",
    [
        {"exp": int(NOW) - 1},
        {"exp": int(NOW) + 3601},
        {"iat": int(NOW) + 1},
        {"iss": "https://other.example"},
        {"sub": ""},
        {"jti": "a\nb"},
        {"more": {"n": float("nan")}},
    ],
)
def test_what_would_not_be_accepted_is_not_released(signer: IdentitySigner, unfit: dict[str, Any]) -> None:
    """Claims that others would refuse, or read as something else, make no token."""
    with pytest.raises(Unavailable) as caught:
        signer.mint_checked(replace(CLAIMS, **unfit), NOW)
    assert caught.value.code is Code.INTERNAL


def test_a_broken_signature_is_not_released(signer: IdentitySigner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in signing is noticed before anybody relies on it."""
    sign = SigningKey.sign
    monkeypatch.setattr(SigningKey, "sign", lambda self, data: sign(self, data + b"!"))
    with pytest.raises(Unavailable):
        signer.mint_checked(CLAIMS, NOW)


def test_what_is_too_long(signer: IdentitySigner) -> None:
    """What nobody would read is refused with a reason."""
    with pytest.raises(BrokerError) as caught:
        signer.mint_checked(replace(CLAIMS, more={f"c{n}": "x" * 256 for n in range(60)}), NOW)
    assert caught.value.code is Code.TOO_LARGE
    assert "x" * 20 not in json.dumps(str(caught.value))


def test_without_a_key() -> None:
    """A broker without a key signs nothing."""
    empty = IdentityTokenSigner(
        KeyRing((), Sealer(Secret(bytes(32))), longest_token=900), CLOCK, CountingIds(), issuer=ISSUER
    )
    with pytest.raises(Unavailable):
        empty.mint_checked(CLAIMS, NOW)
