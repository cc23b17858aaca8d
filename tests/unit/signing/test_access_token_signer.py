"""Access tokens as they are signed, judged by another library and by the broker's own check."""

from __future__ import annotations

import asyncio
import base64
import bisect
import json
import string
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import jwt
import pytest

from broker.core.change import StoredKey
from broker.core.claims import AccessClaims
from broker.core.errors import Code, Refused, Unavailable
from broker.core.jwt import MAX_TOKEN
from broker.core.secret import Secret
from broker.ports import Minted, Signer
from broker.signing.access_token import AccessTokenSigner
from broker.signing.keyring import KeyRing
from broker.signing.sealing import Sealer

NOW = 1_800_000_000.4
ISSUER = "https://broker.example"
SEALER = Sealer(Secret(bytes(range(32))))
CLAIMS = AccessClaims(
    iss=ISSUER,
    sub="prod-cluster/support/triage",
    aud="https://tickets.internal",
    client_id="prod-cluster/support/triage",
    iat=1_800_000_000,
    exp=1_800_000_300,
    jti="tok_01KAG8M2Z1YQ4T7R9W3X5V6B8N",
    scopes=("tickets:comment", "tickets:read"),
    epoch=41,
    task="task_01KAG8M2Z1YQ4T7R9W3X5V6B8P",
    role="support-triage",
    tier="write",
    issuer="prod-cluster",
    path=("task_root",),
    parents=("tok_root", "tok_parent"),
    agents=("prod-cluster/support/triage", "prod-cluster/support/planner"),
    jkt="0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I",
)


@dataclass
class FixedClock:
    """A clock that the test sets."""

    time: float = NOW

    def now(self) -> float:
        return self.time


class Broker:
    """A signer with its key ring, one ES256 key in it."""

    def __init__(self) -> None:
        self.clock = FixedClock()
        self.ring = KeyRing((), SEALER, longest_token=900)
        self.rows: tuple[StoredKey, ...] = (self.ring.generate("ES256", "token", NOW - 5, NOW - 5),)
        self.ring.replace(self.rows)
        self.signer = AccessTokenSigner(self.ring, self.clock, issuer=ISSUER)

    def resigned(self, payload: object, typ: str = "at+jwt") -> Minted:
        """Return any payload, signed with the broker's own key."""
        key = self.ring.signer(NOW)
        return Minted(key.jwt(typ, json.dumps(payload).encode()), key.kid)


@pytest.fixture
def broker() -> Broker:
    """A broker with one key, at a fixed time."""
    return Broker()


def test_a_token_is_one_of_rfc_9068(broker: Broker) -> None:
    """Header and claims as the RFC wants them, and nothing else; an independent library verifies it."""
    minted = broker.signer.mint(CLAIMS)
    public = jwt.PyJWKSet.from_dict(broker.ring.jwks(NOW))[minted.kid]
    decoded = jwt.decode_complete(
        minted.token,
        public,
        algorithms=["ES256"],
        issuer=ISSUER,
        audience="https://tickets.internal",
        leeway=timedelta(days=36_500),  # the library reads the real clock, and this test has its own
        options={"require": ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"]},
    )
    assert decoded["header"] == {"typ": "at+jwt", "alg": "ES256", "kid": broker.signer.kid()}
    assert decoded["payload"] == {
        "iss": ISSUER,
        "sub": "prod-cluster/support/triage",
        "aud": "https://tickets.internal",
        "client_id": "prod-cluster/support/triage",
        "iat": 1_800_000_000,
        "nbf": 1_800_000_000,
        "exp": 1_800_000_300,
        "jti": CLAIMS.jti,
        "scope": "tickets:comment tickets:read",
        "cnf": {"jkt": CLAIMS.jkt},
        "act": {"sub": "prod-cluster/support/triage", "act": {"sub": "prod-cluster/support/planner"}},
        "broker": {
            "epoch": 41,
            "task": CLAIMS.task,
            "path": ["task_root"],
            "parents": ["tok_root", "tok_parent"],
            "role": "support-triage",
            "tier": "write",
            "issuer": "prod-cluster",
        },
    }
    assert len(decoded["signature"]) == 64, "ES256 signatures are r and s, not DER"


async def test_a_good_token_passes_the_check(broker: Broker) -> None:
    """With all claims, and with only those that every token has."""
    signer: Signer = broker.signer
    for claims in (CLAIMS, replace(CLAIMS, path=(), parents=(), agents=(), jkt=None)):
        broker.signer.check(await signer.mint_checked(claims, NOW), claims, NOW)


def test_a_token_does_not_show_in_a_repr(broker: Broker) -> None:
    """What is printed by accident is no credential."""
    minted = broker.signer.mint(CLAIMS)
    assert minted.token not in repr(minted)


@pytest.mark.parametrize(
    "meant",
    [
        {"sub": "other"},
        {"aud": "https://payments.internal"},
        {"client_id": "other"},
        {"iat": CLAIMS.iat - 1},
        {"exp": CLAIMS.exp - 1},
        {"jti": "tok_other"},
        {"scopes": ("tickets:read",)},
        {"epoch": 40},
        {"task": "task_other"},
        {"role": "other"},
        {"tier": "read"},
        {"issuer": "other"},
        {"path": ()},
        {"parents": ()},
        {"agents": ()},
        {"jkt": None},
        {"jkt": "other"},
        {"iss": "https://other.example"},
    ],
)
def test_a_token_that_says_anything_else_than_meant_is_not_released(broker: Broker, meant: dict[str, Any]) -> None:
    """Every single claim is compared."""
    minted = broker.signer.mint(CLAIMS)
    with pytest.raises(Unavailable) as caught:
        broker.signer.check(minted, replace(CLAIMS, **meant), NOW)
    assert caught.value.code is Code.INTERNAL


def test_a_token_of_another_issuer_is_not_released(broker: Broker) -> None:
    """The issuer is the configured one, not whatever the claims say."""
    claims = replace(CLAIMS, iss="https://other.example")
    with pytest.raises(Unavailable):
        broker.signer.check(broker.signer.mint(claims), claims, NOW)


def test_an_expired_or_early_token_is_not_released(broker: Broker) -> None:
    """A request that took too long, or a clock that was stepped, ends in no token."""
    minted = broker.signer.mint(CLAIMS)
    for now in (CLAIMS.exp, CLAIMS.exp + 1, CLAIMS.iat - 3600):
        with pytest.raises(Unavailable):
            broker.signer.check(minted, CLAIMS, now)


def test_every_changed_character_is_noticed(broker: Broker) -> None:
    """A bit that flips in memory between signing and release does not reach an agent."""
    minted = broker.signer.mint(CLAIMS)
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    # The highest bit of each character counts, even of the last one, whose lowest bits stand for nothing.
    swapped = str.maketrans(alphabet + ".", alphabet[32:] + alphabet[:32] + "A")
    for place, character in enumerate(minted.token):
        changed = minted.token[:place] + character.translate(swapped) + minted.token[place + 1 :]
        with pytest.raises(Unavailable):
            broker.signer.check(replace(minted, token=changed), CLAIMS, NOW)


def test_only_the_type_of_access_tokens_passes(broker: Broker) -> None:
    """The same claims, well signed, under another typ are no access token."""
    broker.signer.check(broker.resigned(CLAIMS.to_payload()), CLAIMS, NOW)
    for typ in ("JWT", "broker-rules+jwt", "at+jwt2", ""):
        with pytest.raises(Unavailable):
            broker.signer.check(broker.resigned(CLAIMS.to_payload(), typ), CLAIMS, NOW)


def test_the_record_names_the_key_that_signed(broker: Broker) -> None:
    """A revocation by key relies on it."""
    minted = broker.signer.mint(CLAIMS)
    header = json.loads(base64.urlsafe_b64decode(minted.token.partition(".")[0] + "=="))
    assert header["kid"] == minted.kid == broker.signer.kid()
    with pytest.raises(Unavailable):
        broker.signer.check(replace(minted, kid="other"), CLAIMS, NOW)


def test_a_rotation_changes_the_key_in_time_and_old_tokens_stay_good(broker: Broker) -> None:
    """Nobody notices a rotation by the book."""
    before = broker.signer.mint(CLAIMS)
    rotation = broker.ring.rotated(NOW)
    broker.ring.replace([*rotation.rows])
    assert broker.signer.mint(CLAIMS).kid == before.kid
    later = replace(CLAIMS, iat=CLAIMS.iat + 600, exp=CLAIMS.exp + 600)
    broker.clock.time = NOW + 600
    after = broker.signer.mint(later)
    assert after.kid != before.kid
    broker.signer.check(after, later, NOW + 600)
    broker.signer.check(before, CLAIMS, NOW + 1)


def test_a_key_revoked_between_signing_and_release_stops_the_token(broker: Broker) -> None:
    """An emergency catches even the requests on their way."""
    minted = broker.signer.mint(CLAIMS)
    rotation = broker.ring.replaced(NOW)
    broker.ring.replace(rotation.rows)
    with pytest.raises(Unavailable):
        broker.signer.check(minted, CLAIMS, NOW)
    again = broker.signer.mint(CLAIMS)
    broker.signer.check(again, CLAIMS, NOW)
    assert again.kid not in rotation.compromised


async def test_tokens_that_are_asked_for_together_are_made_together(broker: Broker) -> None:
    """Each caller gets the token of its own claims; one that was cancelled disturbs nobody."""
    asked = [replace(CLAIMS, jti=f"tok_{number}") for number in range(5)]
    calls = [asyncio.ensure_future(broker.signer.mint_checked(claims, NOW)) for claims in asked]
    await asyncio.sleep(0)
    calls[2].cancel()
    made = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(made.pop(2), asyncio.CancelledError)
    for claims, minted in zip(asked[:2] + asked[3:], made, strict=True):
        assert isinstance(minted, Minted)
        broker.signer.check(minted, claims, NOW)


async def test_a_token_that_nobody_would_read_is_refused_alone(broker: Broker) -> None:
    """Longer than any verifier reads: that is the request's fault, not the broker's, and no other token's."""
    large = replace(CLAIMS, details=({"type": "ticket", "ids": [f"T-{number}" for number in range(2000)]},))
    answers = await asyncio.gather(
        *(broker.signer.mint_checked(claims, NOW) for claims in (CLAIMS, large)), return_exceptions=True
    )
    assert isinstance(answers[0], Minted)
    assert isinstance(answers[1], Refused)
    assert answers[1].code is Code.TOO_LARGE


def test_the_longest_token_is_read(broker: Broker) -> None:
    """What is minted can be verified: the bound is the same on both sides."""

    def of(characters: int) -> AccessClaims:
        return replace(CLAIMS, details=({"type": "ticket", "text": "x" * characters},))

    def is_refused(characters: int) -> bool:
        try:
            broker.signer.mint(of(characters))
        except Refused:
            return True
        return False

    longest = bisect.bisect_left(range(MAX_TOKEN), x=True, key=is_refused) - 1
    minted = broker.signer.mint(of(longest))
    broker.signer.check(minted, of(longest), NOW)
    assert len(minted.token) >= MAX_TOKEN - 2  # base64url grows by one or two characters for each


async def test_a_token_that_fails_its_check_fails_alone(broker: Broker) -> None:
    """What is wrong with one token of a round is told to its caller only."""
    foreign = replace(CLAIMS, iss="https://other.example")
    bad, good = await asyncio.gather(
        broker.signer.mint_checked(foreign, NOW), broker.signer.mint_checked(CLAIMS, NOW), return_exceptions=True
    )
    assert isinstance(bad, Unavailable)
    assert bad.code is Code.INTERNAL
    assert isinstance(good, Minted)


async def test_without_a_key_every_caller_of_a_round_is_told() -> None:
    """No key to sign with: each caller gets the failure, and the next round is made as ever."""
    signer = AccessTokenSigner(KeyRing((), SEALER, longest_token=900), FixedClock(), issuer=ISSUER)
    for _ in range(2):
        failed = await asyncio.gather(*(signer.mint_checked(CLAIMS, NOW) for _ in range(2)), return_exceptions=True)
        assert [type(error) for error in failed] == [Unavailable, Unavailable]


def test_without_a_key_nothing_is_minted() -> None:
    """And the error is one that a client may retry on."""
    signer = AccessTokenSigner(KeyRing((), SEALER, longest_token=900), FixedClock(), issuer=ISSUER)
    with pytest.raises(Unavailable):
        signer.mint(CLAIMS)
    with pytest.raises(Unavailable):
        signer.kid()
