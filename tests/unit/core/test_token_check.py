"""Whether a token is good right now: by keys, clock, audience, rules and epoch, remembered or not."""

from __future__ import annotations

from dataclasses import replace

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from broker.core.claims import AccessClaims
from broker.core.errors import BrokerError, Code
from broker.core.jwk import KeySet, VerificationKey, public_jwk, thumbprint
from broker.core.rules import Rule, RuleIndex
from broker.core.selector import Selector
from broker.core.token_check import TokenCheck

NOW = 1_800_000_000
ISSUER = "https://broker.example"
TICKETS = "https://tickets.internal"
CLAIMS = AccessClaims(
    iss=ISSUER,
    sub="alpha",
    aud=TICKETS,
    client_id="alpha",
    iat=NOW,
    exp=NOW + 300,
    jti="tok_1",
    scopes=("tickets:read",),
    epoch=3,
    task="task_1",
    role="support",
    tier="read",
    issuer="registered",
)


class World:
    """Keys and rules that a check looks at, and a key to sign with."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.kid = thumbprint(public_jwk(self.key.public_key()))
        self.keys = KeySet([VerificationKey(self.kid, "ES256", self.key.public_key(), self.kid)])
        self.rules = RuleIndex(epoch=3)
        self.check = self.checking(first_hand=True)

    def checking(self, *, first_hand: bool) -> TokenCheck:
        """Return a check by these keys and rules."""
        return TokenCheck(issuer=ISSUER, keys=lambda: self.keys, rules=lambda: self.rules, first_hand=first_hand)

    def token(self, claims: AccessClaims = CLAIMS) -> str:
        """Return a signed token."""
        return jwt.encode(claims.to_payload(), self.key, algorithm="ES256", headers={"kid": self.kid, "typ": "at+jwt"})

    def refused(self, token: str, now: float = NOW, audience: str | None = TICKETS) -> Code:
        """Return why a token is refused."""
        with pytest.raises(BrokerError) as caught:
            self.check.check(token, now, audience)
        return caught.value.code


@pytest.fixture
def world() -> World:
    """A world at epoch 3 without live rules."""
    return World()


def test_a_good_token_is_good_until_it_ends(world: World) -> None:
    """The first time and when it is remembered; not from its last second on."""
    token = world.token()
    for now in (NOW, NOW + 299.9):
        assert world.check.check(token, now, TICKETS).claims == CLAIMS
    assert world.refused(token, NOW + 300) is Code.TOKEN_EXPIRED


def test_memory_does_not_outlive_a_rule_or_a_key(world: World) -> None:
    """A remembered token dies with a rule that covers it, and with its key leaving the set."""
    token = world.token()
    world.check.check(token, NOW, TICKETS)
    world.rules.add(Rule("rule_4", Selector(agent="alpha"), 4, NOW, "operator", "test"))
    assert world.refused(token) is Code.TOKEN_REVOKED
    world.rules.remove(["rule_4"])
    world.keys = KeySet(())
    assert world.refused(token) is Code.TOKEN_INVALID


def test_a_token_is_for_its_audience_only(world: World) -> None:
    """Unless the caller leaves the audience open, as introspection does."""
    token = world.token()
    assert world.refused(token, audience="https://payments.internal") is Code.TOKEN_AUDIENCE
    assert world.check.check(token, NOW, None).claims.aud == TICKETS


def test_a_token_of_a_later_epoch_is_not_of_this_ledger(world: World) -> None:
    """After an older ledger was restored, no rule of it could end such a token: it is refused at once."""
    assert world.refused(world.token(replace(CLAIMS, epoch=4))) is Code.TOKEN_INVALID
    behind = world.checking(first_hand=False)
    assert behind.check(world.token(replace(CLAIMS, epoch=4)), NOW, TICKETS).claims.epoch == 4
    world.rules.add(Rule("rule_4", Selector(agent="somebody-else"), 4, NOW, "operator", "test"))
    assert world.check.check(world.token(replace(CLAIMS, epoch=4)), NOW, TICKETS).claims.epoch == 4


@pytest.mark.parametrize("token", ["", "a.b.c", "x" * 20_000, "é.é.é", "\udc80"])
def test_what_is_no_token_is_refused(world: World, token: str) -> None:
    """Whatever a stranger sends ends in one clear refusal."""
    assert world.refused(token) is Code.TOKEN_INVALID
