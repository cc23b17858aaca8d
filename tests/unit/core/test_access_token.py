"""The broker's own access tokens, as the broker and every resource server check them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from broker.core.access_token import verify_access_token, verify_ended_token
from broker.core.claims import AccessClaims
from broker.core.jwk import KeySet, VerificationKey, thumbprint
from broker.core.jwt import InvalidToken
from tests.support.identity_provider import SigningKey

NOW = 1_795_300_000
ISSUER = "https://broker.example"
AUDIENCE = "https://tickets.internal"
KEY = SigningKey()
KID = thumbprint(KEY.published())
KEYS = KeySet([VerificationKey(KID, "ES256", KEY.private.public_key(), KID)])
CLAIMS = AccessClaims(
    iss=ISSUER,
    sub="prod/support/triage",
    aud=AUDIENCE,
    client_id="prod/support/triage",
    iat=NOW,
    exp=NOW + 300,
    jti="tok_1",
    scopes=("tickets:comment", "tickets:read"),
    epoch=41,
    task="task_2",
    role="support-triage",
    tier="write",
    issuer="prod",
    path=("task_1",),
    parents=("tok_root", "tok_0"),
    agents=("prod/support/triage", "prod/support/planner"),
    jkt="0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I",
)


def _token(payload: dict[str, Any] | None = None, typ: str = "at+jwt") -> str:
    return KEY.sign(CLAIMS.to_payload() if payload is None else payload, kid=KID, typ=typ)


def _why(token: str, *, audience: str | None = AUDIENCE, now: float = NOW, skew: float = 0) -> str:
    with pytest.raises(InvalidToken) as refused:
        verify_access_token(token, KEYS, issuer=ISSUER, audience=audience, now=now, skew=skew)
    return refused.value.why


def test_a_good_token_says_everything_it_was_made_with() -> None:
    """The claims come back equal, with the key's name and the facts that revocation matches."""
    verified = verify_access_token(_token(), KEYS, issuer=ISSUER, audience=AUDIENCE, now=NOW)
    assert verified.claims == CLAIMS
    assert verified.kid == KID
    assert verified.facts == CLAIMS.facts(KID)
    assert ("token", "tok_0") in verified.facts


def test_a_token_is_for_one_resource() -> None:
    """Another resource refuses it; without an audience, the comparison is the caller's."""
    assert _why(_token(), audience="https://payments.internal") == "audience"
    verified = verify_access_token(_token(), KEYS, issuer=ISSUER, audience=None, now=NOW)
    assert verified.claims.aud == AUDIENCE


def test_a_token_ends_on_time() -> None:
    """Not a second later, unless the resource server says that its clock may be off."""
    assert verify_access_token(_token(), KEYS, issuer=ISSUER, audience=AUDIENCE, now=NOW + 299.9).claims == CLAIMS
    assert _why(_token(), now=NOW + 300) == "expired"
    assert verify_access_token(_token(), KEYS, issuer=ISSUER, audience=AUDIENCE, now=NOW + 304, skew=5).claims == CLAIMS
    assert _why(_token(), now=NOW + 305, skew=5) == "expired"


def test_a_resource_server_whose_clock_is_behind_accepts_new_tokens() -> None:
    """Up to the usual skew; the end does not move by it."""
    assert verify_access_token(_token(), KEYS, issuer=ISSUER, audience=AUDIENCE, now=NOW - 30).claims == CLAIMS
    assert _why(_token(), now=NOW - 31) == "not_yet_valid"


def test_other_tokens_of_the_broker_are_no_access_tokens() -> None:
    """A snapshot or an ID token signed by the same key does not pass."""
    for typ in ("JWT", "broker-rules+jwt", "secevent+jwt", "statuslist+jwt"):
        assert _why(_token(typ=typ)) == "typ"


def test_another_issuers_token_is_refused() -> None:
    """Even with a good signature."""
    assert _why(_token(replace(CLAIMS, iss="https://broker.example/").to_payload())) == "issuer"


@pytest.mark.parametrize(
    "change",
    [
        {"broker": None},
        {"broker": {}},
        {"broker": {**CLAIMS.to_payload()["broker"], "epoch": "41"}},
        {"broker": {**CLAIMS.to_payload()["broker"], "epoch": -1}},
        {"scope": ["tickets:read"]},
        {"scope": ""},
        {"cnf": {}},
        {"cnf": {"jkt": "a", "x5t#S256": "b"}},
        {"act": "someone"},
        {"exp": NOW + 300.5},
        {"iat": float(NOW) + 0.25},
    ],
)
def test_a_payload_that_is_not_ours_is_refused(change: dict[str, Any]) -> None:
    """A good signature over something else is not believed in part."""
    assert _why(_token({**CLAIMS.to_payload(), **change})) == "claims"


def test_a_token_without_an_identity_is_refused() -> None:
    """RFC 9068 wants each of these."""
    for name in ("sub", "jti", "client_id", "iat", "exp"):
        payload = CLAIMS.to_payload()
        del payload[name]
        assert _why(_token(payload)) == "claims"


def test_an_ended_token_can_still_be_named_to_revoke_it() -> None:
    """RFC 7009: everything but the end must be good, whatever the audience."""
    assert verify_ended_token(_token(), KEYS, issuer=ISSUER, now=NOW + 10_000).claims == CLAIMS
    for bad in (KEY.sign(CLAIMS.to_payload(), kid="other", typ="at+jwt"), _token(typ="JWT"), "x"):
        with pytest.raises(InvalidToken):
            verify_ended_token(bad, KEYS, issuer=ISSUER, now=NOW + 10_000)
    with pytest.raises(InvalidToken):
        verify_ended_token(_token(), KEYS, issuer="https://other.example", now=NOW)
