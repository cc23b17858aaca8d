"""Registered agents authenticate with their own keys, each time with a new assertion."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from broker.authenticators import client_assertion
from broker.authenticators.client_assertion import ClientAssertion
from broker.authenticators.refusal import TEXT
from broker.core.change import RegisteredAgent, Unused
from broker.core.errors import Code, Refused, Unavailable
from broker.core.identity import REGISTERED
from broker.core.jwk import public_jwk, thumbprint
from broker.core.jwt import InvalidToken
from broker.ports import Authenticated, UnverifiedAssertion
from tests.support.identity_provider import SigningKey, forge

NOW = 1_795_300_000.0
BROKER = "https://broker.example"
KEY = SigningKey()


class Registry:
    """Registered agents by name, as the ledger knows them."""

    def __init__(self) -> None:
        self.agents: dict[str, RegisteredAgent] = {}
        self.failure: Exception | None = None

    def add(self, name: str, key: SigningKey, **members: object) -> None:
        """Register an agent, or replace its key."""
        jwk = {**public_jwk(key.private.public_key()), **members}
        self.agents[name] = RegisteredAgent(name, jwk, thumbprint(jwk), NOW, "operator")

    async def registered_agent(self, name: str) -> RegisteredAgent | None:
        if self.failure is not None:
            raise self.failure
        return self.agents.get(name)


@pytest.fixture
def registry() -> Registry:
    """Give a registry with one agent."""
    registry = Registry()
    registry.add("reader", KEY)
    return registry


@pytest.fixture
def authenticator(registry: Registry) -> ClientAssertion:
    """Give the authenticator over that registry."""
    return ClientAssertion(registry, issuer=BROKER)


def _assertion(key: SigningKey = KEY, kid: str | None = None, /, **changes: object) -> str:
    claims: dict[str, Any] = {
        "iss": "reader",
        "sub": "reader",
        "aud": BROKER,
        "iat": int(NOW),
        "exp": int(NOW) + 60,
        "jti": "a1",
    }
    return key.sign({name: value for name, value in {**claims, **changes}.items() if value is not ...}, kid=kid)


async def _authenticate(authenticator: ClientAssertion, token: str, now: float = NOW, **how: bool) -> Authenticated:
    return await authenticator.authenticate(UnverifiedAssertion(token, **how), now)


async def _why(authenticator: ClientAssertion, token: str, now: float = NOW, **how: bool) -> str:
    """Return why a token is refused, having checked that the caller is told nothing of it."""
    with pytest.raises(Refused) as refused:
        await _authenticate(authenticator, token, now, **how)
    assert (refused.value.code, refused.value.public) == (Code.ASSERTION_INVALID, TEXT)
    cause = refused.value.__cause__
    assert isinstance(cause, InvalidToken)
    return cause.why


async def test_a_registered_agent_is_authenticated_by_its_key(authenticator: ClientAssertion) -> None:
    """Under its own name, with the guard that uses the assertion up."""
    token = _assertion()
    who = await _authenticate(authenticator, token)
    assert (who.agent.id, who.agent.issuer, who.agent.subject) == ("reader", REGISTERED, "reader")
    assert (who.method, who.assertion_id) == ("private_key_jwt", "a1")
    assert who.digest == hashlib.sha256(token.encode()).hexdigest()
    assert who.key == thumbprint(public_jwk(KEY.private.public_key()))
    (guard,) = who.guards
    assert isinstance(guard, Unused)
    assert (guard.expires_at, guard.what) == (int(NOW) + 90, "assertion")
    assert await _why(authenticator, token, guard.expires_at) == "expired", "by when it may be forgotten, it is no good"


async def test_the_guard_is_of_agent_and_jti(authenticator: ClientAssertion, registry: Registry) -> None:
    """The same jti of one agent is the same, whatever else the assertion says; of another agent it is not."""
    registry.add("writer", KEY)

    async def key(**changes: object) -> bytes:
        (guard,) = (await _authenticate(authenticator, _assertion(**changes))).guards
        assert isinstance(guard, Unused)
        return guard.key

    assert await key() == await key(exp=int(NOW) + 61) != await key(jti="a2")
    assert await key() != await key(iss="writer", sub="writer")


@pytest.mark.parametrize("alg", ["ES256", "ES384", "RS256", "PS256", "EdDSA"])
async def test_every_advertised_algorithm_works(authenticator: ClientAssertion, registry: Registry, alg: str) -> None:
    """For an agent that registered such a key."""
    key = SigningKey(alg=alg)
    registry.add("reader", key)
    assert (await _authenticate(authenticator, _assertion(key))).agent.id == "reader"


async def test_other_algorithms_are_refused(authenticator: ClientAssertion, registry: Registry) -> None:
    """Also when the key could do it, and shared secrets in any case."""
    for alg in ("ES512", "RS512"):
        key = SigningKey(alg=alg)
        registry.add("reader", key)
        assert await _why(authenticator, _assertion(key)) == "alg"
    for alg in ("none", "HS256"):
        assert await _why(authenticator, forge({"alg": alg}, {"iss": "reader"})) == "alg"


async def test_a_key_may_be_named_or_not(authenticator: ClientAssertion, registry: Registry) -> None:
    """By the name it was registered under, or its thumbprint; a name that is not its own is another key's."""
    registry.add("reader", KEY, kid="laptop", use="sig", alg="ES256")
    known = registry.agents["reader"].key
    for kid in (None, "laptop", known):
        assert (await _authenticate(authenticator, _assertion(KEY, kid))).key == known
    assert await _why(authenticator, _assertion(KEY, "other")) == "kid"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"aud": f"{BROKER}/oauth2/token"}, "audience"),
        ({"aud": [BROKER, f"{BROKER}/oauth2/token"]}, "audience"),
        ({"aud": f"{BROKER}/"}, "audience"),
        ({"aud": f"{BROKER}/v1"}, "audience"),
        ({"aud": ...}, "audience"),
        ({"sub": "writer"}, "subject"),
        ({"sub": ...}, "claims"),
        ({"iss": ...}, "issuer"),
        ({"iss": "Reader"}, "issuer"),
        ({"iss": "prod/support/triage"}, "issuer"),
        ({"iss": "https://broker.example"}, "issuer"),
        ({"iss": "r" * 200}, "issuer"),
        ({"iss": ["reader"]}, "issuer"),
        ({"iss": "nobody"}, "agent"),
        ({"jti": ...}, "claims"),
        ({"jti": ""}, "claims"),
        ({"jti": 1}, "claims"),
        ({"exp": ...}, "claims"),
        ({"exp": int(NOW) - 30}, "expired"),
        ({"exp": int(NOW) + 331}, "lifetime"),
        ({"exp": 10**15}, "lifetime"),
        ({"iat": int(NOW) + 31}, "not_yet_valid"),
    ],
)
async def test_an_assertion_is_for_this_broker_soon_and_once(
    authenticator: ClientAssertion, change: dict[str, object], why: str
) -> None:
    """Its sole audience is the issuer: one for the token endpoint's URL could be for another server (pitfall 8)."""
    assert await _why(authenticator, _assertion(**change)) == why


async def test_the_audience_may_be_a_list_of_one(authenticator: ClientAssertion) -> None:
    """As some libraries write it."""
    assert (await _authenticate(authenticator, _assertion(aud=[BROKER]))).agent.id == "reader"


async def test_a_trailing_slash_is_tolerated_by_switch(registry: Registry) -> None:
    """And then as the only audience, too."""
    tolerant = ClientAssertion(registry, issuer=BROKER, accept_trailing_slash=True)
    for audience in (BROKER, f"{BROKER}/"):
        assert (await _authenticate(tolerant, _assertion(aud=audience))).agent.id == "reader"
    assert await _why(tolerant, _assertion(aud=[BROKER, f"{BROKER}/"])) == "audience"
    assert await _why(tolerant, _assertion(aud=f"{BROKER}//")) == "audience"


async def test_another_key_is_not_the_agents(authenticator: ClientAssertion) -> None:
    """Whoever knows the name does not have the key."""
    assert await _why(authenticator, _assertion(SigningKey())) == "signature"


async def test_it_is_no_grant_and_no_svid(authenticator: ClientAssertion) -> None:
    """An agent's own word authenticates it; it is not somebody else's word about it."""
    assert await _why(authenticator, _assertion(), as_grant=True) == "use"
    assert await _why(authenticator, _assertion(), spiffe=True) == "use"


@pytest.mark.parametrize("typ", ["at+jwt", "dpop+jwt", "secevent+jwt"])
async def test_another_kind_of_token_is_no_assertion(authenticator: ClientAssertion, typ: str) -> None:
    """Even one that the agent has signed for another purpose, such as a proof."""
    claims = {"iss": "reader", "sub": "reader", "aud": BROKER, "exp": int(NOW) + 60, "jti": "a1"}
    assert await _why(authenticator, KEY.sign(claims, typ=typ, kid=None)) == "typ"
    who = await _authenticate(authenticator, KEY.sign(claims, typ="client-authentication+jwt", kid=None))
    assert who.agent.id == "reader"


async def test_a_replaced_key_is_no_good_at_once(authenticator: ClientAssertion, registry: Registry) -> None:
    """And a removed agent is nobody; the memory of parsed keys follows the registry."""
    await _authenticate(authenticator, _assertion())
    new = SigningKey()
    registry.add("reader", new)
    assert await _why(authenticator, _assertion()) == "signature"
    assert (await _authenticate(authenticator, _assertion(new))).agent.id == "reader"
    del registry.agents["reader"]
    assert await _why(authenticator, _assertion(new)) == "agent"


async def test_a_stored_key_that_is_no_key_authenticates_nobody(
    authenticator: ClientAssertion, registry: Registry
) -> None:
    """Whatever became of the registry, the answer is no."""
    registry.agents["reader"] = RegisteredAgent("reader", {"kty": "oct", "k": "AA"}, "t", NOW, "operator")
    assert await _why(authenticator, _assertion()) == "kid"


async def test_a_registry_that_cannot_be_read_is_unavailable(
    authenticator: ClientAssertion, registry: Registry
) -> None:
    """That is not the caller's fault, and not a refusal."""
    registry.failure = Unavailable(Code.LEDGER_UNAVAILABLE, "the ledger cannot be read", retry_after=1)
    with pytest.raises(Unavailable) as unavailable:
        await _authenticate(authenticator, _assertion())
    assert unavailable.value.code is Code.LEDGER_UNAVAILABLE


async def test_many_agents_cost_bounded_memory(
    authenticator: ClientAssertion, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only so many parsed keys are held; whoever was forgotten is authenticated all the same."""
    monkeypatch.setattr(client_assertion, "MAX_KEYS_HELD", 3)
    names = [f"agent-{n}" for n in range(10)]
    for name in [*names, *names]:
        registry.add(name, KEY)
        who = await _authenticate(authenticator, _assertion(iss=name, sub=name))
        assert who.agent.id == name
    assert len(authenticator._keys) == 3
