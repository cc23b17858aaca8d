"""Platform tokens of trusted issuers become agents; nothing else does."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ed25519

from broker.authenticators.federation import Federation
from broker.authenticators.jwks import STALE_SECONDS
from broker.authenticators.key_source import DEFAULT_TTL
from broker.authenticators.recognition import Recognised, Recognition
from broker.authenticators.refusal import TEXT
from broker.core.change import Unused
from broker.core.errors import Code, Refused, Unavailable
from broker.core.identity import Agent
from broker.core.issuer import TrustedIssuer
from broker.core.jwt import InvalidToken
from broker.outbound import Outbound
from broker.ports import Authenticated, UnverifiedAssertion
from tests.support.hostile_server import HostileServer, never
from tests.support.identity_provider import JWKS, IdentityProvider, SigningKey, forge

NOW = 1_795_300_000.0
BROKER = "https://broker.example"


class Clock:
    """The time of the providers."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Trust:
    """The trusted issuers in force; replaced as a whole, as a policy is."""

    def __init__(self, outbound: Outbound) -> None:
        self.issuers: Mapping[str, TrustedIssuer] = {}
        self.federation = Federation(lambda: self.issuers, outbound, issuer=BROKER)

    def in_force(self, *issuers: TrustedIssuer) -> None:
        """Put other definitions in force."""
        self.issuers = {issuer.name: issuer for issuer in issuers}

    async def authenticate(self, token: str, now: float = NOW, **how: bool) -> Authenticated:
        """Authenticate as a use case does."""
        return await self.federation.authenticate(UnverifiedAssertion(token, **how), now)

    async def why(self, token: str, now: float = NOW, **how: bool) -> str:
        """Return why a token is refused, having checked that the caller is told nothing of it."""
        with pytest.raises(Refused) as refused:
            await self.authenticate(token, now, **how)
        assert refused.value.code is Code.ASSERTION_INVALID
        assert refused.value.public == TEXT
        cause = refused.value.__cause__
        assert isinstance(cause, InvalidToken)
        return cause.why


@pytest.fixture
def clock() -> Clock:
    """Give the time that providers live in."""
    return Clock()


@pytest.fixture
async def provider(clock: Clock) -> AsyncIterator[IdentityProvider]:
    """Give a provider on loopback."""
    async with IdentityProvider(clock) as provider:
        yield provider


@pytest.fixture
async def stranger(clock: Clock) -> AsyncIterator[IdentityProvider]:
    """Give another provider on loopback."""
    async with IdentityProvider(clock) as provider:
        yield provider


@pytest.fixture
async def trust() -> AsyncIterator[Trust]:
    """Give a federation that trusts nobody yet."""
    async with Outbound(total_seconds=2) as outbound:
        trust = Trust(outbound)
        yield trust
        await trust.federation.close()


# --- good tokens ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "agent", "method"),
    [
        ("kubernetes", "plat/support/triage", "platform"),
        ("github-actions", "plat/74/ref:refs%2Fheads%2Fmain", "platform"),
        ("oidc", "plat/user-1", "platform"),
        ("spiffe", "plat/agent/reviewer", "spiffe"),
    ],
)
async def test_a_token_of_each_kind_of_platform_becomes_its_agent(
    trust: Trust, provider: IdentityProvider, preset: str, agent: str, method: str
) -> None:
    """With what the ledger records of it, and nothing that uses it up: platform tokens are reused."""
    trust.in_force(provider.trusted("plat", preset))
    tokens: dict[str, Callable[[], str]] = {
        "kubernetes": provider.kubernetes,
        "github-actions": provider.github,
        "oidc": provider.oidc,
        "spiffe": provider.svid,
    }
    token = tokens[preset]()
    who = await trust.authenticate(token)
    assert (who.agent.id, who.agent.issuer, who.method) == (agent, "plat", method)
    assert who.digest == hashlib.sha256(token.encode()).hexdigest()
    assert (who.assertion_id is None) == (preset == "spiffe")
    assert who.key
    assert who.guards == ()
    assert await trust.authenticate(token) == who


async def test_a_platform_token_serves_as_grant_and_as_client_assertion(
    trust: Trust, provider: IdentityProvider
) -> None:
    """In whatever parameter it comes, it vouches for the same agent."""
    trust.in_force(provider.trusted("plat"))
    token = provider.oidc()
    assert await trust.authenticate(token, as_grant=True) == await trust.authenticate(token)


async def test_an_svid_is_taken_with_and_without_its_own_assertion_type(
    trust: Trust, provider: IdentityProvider
) -> None:
    """Its subject says which trust domain it is of; an ``iss`` that it may have does not matter (pitfall 10)."""
    trust.in_force(provider.trusted("mesh", "spiffe"))
    for token in (provider.svid(), provider.svid(iss="https://spire.corp.example")):
        for spiffe in (True, False):
            assert (await trust.authenticate(token, spiffe=spiffe)).agent.id == "mesh/agent/reviewer"
            assert (await trust.authenticate(token, spiffe=spiffe)).guards == ()


# --- bad tokens -----------------------------------------------------------------------------------------------------


async def test_nothing_is_said_about_which_issuers_exist(trust: Trust, provider: IdentityProvider) -> None:
    """A forged token of a trusted issuer and a token of nobody get the same words."""
    trust.in_force(provider.trusted("plat"))
    forged = SigningKey(kid=provider.key.kid).sign(provider.claims("user-1"))
    assert await trust.why(forged) == "signature"
    assert await trust.why(provider.oidc(iss="https://nobody.example")) == "issuer"
    assert await trust.why("garbage") == "malformed"


async def test_strangers_cause_no_request(trust: Trust, provider: IdentityProvider) -> None:
    """What names no trusted issuer asks nobody anything (law 10)."""
    trust.in_force(provider.trusted("plat"))
    tokens = [
        provider.oidc(iss=None),
        provider.oidc(iss=f"{provider.url}/"),
        provider.oidc(iss=provider.url.upper()),
        provider.svid(),
        provider.svid(trust_domain="other.example"),
        "x",
    ]
    for token in tokens:
        for spiffe in (True, False):
            assert await trust.why(token, spiffe=spiffe) in {"issuer", "malformed"}
    assert provider.asked == {}


async def test_keys_of_one_issuer_verify_nothing_of_another(
    trust: Trust, provider: IdentityProvider, stranger: IdentityProvider
) -> None:
    """Two trusted issuers with the same ``kid``: neither can speak for the other (pitfall 12)."""
    stranger.key = SigningKey(kid=provider.key.kid)
    stranger.published = [stranger.key]
    trust.in_force(provider.trusted("one"), stranger.trusted("two"))
    assert (await trust.authenticate(provider.oidc())).agent.id == "one/user-1"
    assert (await trust.authenticate(stranger.oidc())).agent.id == "two/user-1"
    assert await trust.why(stranger.oidc(iss=provider.url)) == "signature"
    assert await trust.why(provider.oidc(iss=stranger.url)) == "signature"


async def test_an_issuer_cannot_speak_for_a_trust_domain_nor_the_other_way_round(
    trust: Trust, provider: IdentityProvider, stranger: IdentityProvider
) -> None:
    """A SPIFFE ID is believed from its own bundle's keys only, and only from those for JWT-SVIDs."""
    trust.in_force(stranger.trusted("mesh", "spiffe"), provider.trusted("plat"))
    spiffe_id = "spiffe://corp.example/agent/reviewer"
    assert await trust.why(provider.oidc(spiffe_id), spiffe=True) == "kid"
    assert (await trust.authenticate(provider.oidc(spiffe_id))).agent.id.startswith("plat/")
    assert await trust.why(stranger.key.sign(stranger.claims(spiffe_id, 300)), spiffe=True) == "kid"
    assert await trust.why(stranger.svid(iss=provider.url)) == "kid"


async def test_tokens_are_held_to_the_issuers_own_definition(trust: Trust, provider: IdentityProvider) -> None:
    """Its algorithms, its audiences, its longest life."""
    definition = provider.trusted("plat", algorithms=("RS256",))
    trust.in_force(definition)
    assert await trust.why(provider.oidc()) == "alg"
    trust.in_force(replace(definition, algorithms=("ES256",), audiences=("https://other.example",)))
    assert await trust.why(provider.oidc()) == "audience"
    trust.in_force(replace(definition, algorithms=("ES256",), max_lifetime=3599))
    assert await trust.why(provider.oidc()) == "lifetime"
    trust.in_force(replace(definition, algorithms=("ES256",)))
    assert (await trust.authenticate(provider.oidc())).agent.id == "plat/user-1"


async def test_eddsa_is_one_algorithm_under_two_names(trust: Trust, provider: IdentityProvider) -> None:
    """An issuer whose definition says EdDSA may write Ed25519 (RFC 9864); one whose does not may write neither."""
    provider.key = SigningKey(alg="EdDSA")
    provider.published = [provider.key]
    claims = provider.claims("user-1")
    unsigned = forge({"alg": "Ed25519", "kid": provider.key.kid}, claims).rpartition(".")[0].encode()
    private = provider.key.private
    assert isinstance(private, ed25519.Ed25519PrivateKey)
    token = forge({"alg": "Ed25519", "kid": provider.key.kid}, claims, private.sign(unsigned))
    trust.in_force(provider.trusted("plat", algorithms=("EdDSA",)))
    assert (await trust.authenticate(token)).agent.id == "plat/user-1"
    assert (await trust.authenticate(provider.oidc())).agent.id == "plat/user-1"
    trust.in_force(provider.trusted("plat", algorithms=("ES256",)))
    assert await trust.why(token) == "alg"


@pytest.mark.parametrize("preset", ["kubernetes", "github-actions"])
async def test_a_token_that_is_good_elsewhere_too_is_not_taken_from_platforms_that_can_do_better(
    trust: Trust, provider: IdentityProvider, preset: str
) -> None:
    """Whoever receives a token for two audiences could pass it on; the API server's default token is for it alone."""
    trust.in_force(provider.trusted("plat", preset))
    make = provider.kubernetes if preset == "kubernetes" else provider.github
    assert await trust.why(make(aud=[BROKER, "https://kubernetes.default.svc"])) == "audience"
    assert await trust.why(make(aud=["https://kubernetes.default.svc"])) == "audience"


async def test_any_provider_may_name_several_audiences(trust: Trust, provider: IdentityProvider) -> None:
    """The broker must be among them; further ones of ours are configured."""
    trust.in_force(provider.trusted("plat", audiences=(BROKER, "broker")))
    for audience in (BROKER, "broker", [BROKER, "https://other.example"]):
        assert (await trust.authenticate(provider.oidc(aud=audience))).agent.id == "plat/user-1"
    assert await trust.why(provider.oidc(aud=["https://other.example"])) == "audience"


async def test_an_access_token_of_the_broker_is_no_platform_token(trust: Trust, provider: IdentityProvider) -> None:
    """Neither by its type, nor if somebody manages to configure the broker as its own issuer."""
    trust.in_force(provider.trusted("plat"))
    assert await trust.why(provider.key.sign(provider.claims("user-1"), typ="at+jwt")) == "typ"
    trust.in_force(provider.trusted("plat", issuer=BROKER, jwks_url=provider.url + JWKS))
    assert await trust.why(provider.oidc(iss=BROKER)) == "issuer"


async def test_an_agent_that_no_token_could_name_is_refused(trust: Trust, provider: IdentityProvider) -> None:
    """Percent-encoding can make a name too long for a claim; that is found here, not when minting."""
    trust.in_force(provider.trusted("plat"))
    assert await trust.why(provider.oidc("\u00e9" * 400)) == "subject"


async def test_a_token_that_may_be_used_once_brings_its_guard(trust: Trust, provider: IdentityProvider) -> None:
    """``require_unique_jti``: the same key for the same token, remembered as long as it is good; no jti, no entry."""
    trust.in_force(provider.trusted("plat", require_unique_jti=True))
    token = provider.oidc(jti="j1")
    guards = {(await trust.authenticate(token)).guards for _ in range(2)}
    assert len(guards) == 1
    (guard,) = guards.pop()
    assert isinstance(guard, Unused)
    assert (guard.expires_at, guard.what) == (int(NOW) + 3630, "assertion")
    (again,) = (await trust.authenticate(provider.oidc("user-2", jti="j1"))).guards
    (other,) = (await trust.authenticate(provider.oidc(jti="j2"))).guards
    assert isinstance(again, Unused)
    assert isinstance(other, Unused)
    assert again.key == guard.key != other.key
    assert await trust.why(provider.oidc(jti=None)) == "claims"


# --- recognition ----------------------------------------------------------------------------------------------------


async def test_a_token_is_recognised_until_it_expires(
    trust: Trust, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time costs no signature; one second after its end it is refused."""
    trust.in_force(provider.trusted("plat", jwks={"keys": [provider.key.published()]}))
    token = provider.oidc()
    first = await trust.authenticate(token)
    assert trust.federation.recognise(UnverifiedAssertion(token), NOW + 3629.9) is first
    assert trust.federation.recognise(UnverifiedAssertion(token), NOW + 3630) is None
    assert await trust.why(token, NOW + 3630) == "expired"


async def test_only_the_very_same_text_is_recognised(trust: Trust, provider: IdentityProvider) -> None:
    """A token with another signature, or presented in another way, is looked at again."""
    trust.in_force(provider.trusted("plat"))
    token = provider.oidc()
    await trust.authenticate(token)
    assert await trust.why(f"{token[:-4]}AAAA") == "signature"
    assert trust.federation.recognise(UnverifiedAssertion(token, spiffe=True), NOW) is None
    assert trust.federation.recognise(UnverifiedAssertion("\ud800"), NOW) is None


async def test_a_withdrawn_key_takes_the_tokens_it_signed_with_it(
    trust: Trust, provider: IdentityProvider, clock: Clock
) -> None:
    """When the issuer publishes a key no more, what was recognised by it is forgotten."""
    trust.in_force(provider.trusted("plat"))
    token = provider.oidc()
    await trust.authenticate(token)
    provider.rotate()
    assert (await trust.authenticate(token, NOW + 1)).agent.id == "plat/user-1", "nobody knows yet"
    later = NOW + DEFAULT_TTL
    await trust.federation.refresh(later)
    assert await trust.why(token, later) == "kid"


async def test_a_changed_definition_forgets_what_was_recognised_under_the_old_one(
    trust: Trust, provider: IdentityProvider
) -> None:
    """Narrower audiences, other algorithms, another name: everything is verified anew."""
    definition = provider.trusted("plat")
    trust.in_force(definition)
    token = provider.oidc()
    await trust.authenticate(token)
    trust.in_force(replace(definition, audiences=("https://other.example",)))
    assert await trust.why(token) == "audience"
    trust.in_force(replace(definition, name="renamed"))
    assert (await trust.authenticate(token)).agent.id == "renamed/user-1"
    trust.in_force()
    assert await trust.why(token) == "issuer"


async def test_a_policy_that_is_loaded_again_unchanged_keeps_keys_and_recognition(
    trust: Trust, provider: IdentityProvider
) -> None:
    """Equal definitions are the same, whatever object they are; nothing is fetched twice."""
    trust.in_force(provider.trusted("plat"))
    token = provider.oidc()
    first = await trust.authenticate(token)
    trust.in_force(provider.trusted("plat"), provider.trusted("other", issuer="https://other.example"))
    assert trust.federation.recognise(UnverifiedAssertion(token), NOW) is first
    assert provider.asked[JWKS] == 1


async def test_when_the_keys_are_too_old_nothing_is_recognised(
    trust: Trust, provider: IdentityProvider, clock: Clock
) -> None:
    """An issuer that is away for too long vouches for nobody, and the answer says to come back."""
    trust.in_force(provider.trusted("plat"))
    token = provider.oidc(lifetime=80_000)
    await trust.authenticate(token)
    provider.url, url = "http://127.0.0.1:1", provider.url
    provider.discovery = {"issuer": "gone", "jwks_uri": url}
    provider.faults[JWKS] = _gone
    assert (await trust.authenticate(token, NOW + STALE_SECONDS)).agent.id == "plat/user-1"
    with pytest.raises(Unavailable) as unavailable:
        await trust.authenticate(token, NOW + DEFAULT_TTL + STALE_SECONDS)
    assert unavailable.value.code is Code.ISSUER_UNAVAILABLE
    assert unavailable.value.retry_after


async def _gone(_request: Any) -> Any:  # noqa: ANN401 - never called with anything of interest
    await asyncio.sleep(0)
    raise ConnectionResetError


def _recognised(until: float) -> Recognised:
    who = Authenticated(agent=Agent("plat/a", "plat", "a"), method="platform", digest="d")
    return Recognised(who, IdentityProvider(lambda: NOW).trusted(), "thumbprint", until)


def test_the_memory_of_tokens_is_bounded() -> None:
    """The token that was not seen for longest is forgotten first; an expired one is gone."""
    memory = Recognition(size=3)
    for n in range(3):
        memory.remember(bytes([n]), _recognised(NOW + 10))
    assert memory.find(bytes([0]), NOW)
    memory.remember(bytes([3]), _recognised(NOW + 10))
    assert memory.find(bytes([1]), NOW) is None
    assert memory.find(bytes([0]), NOW)
    assert len(memory) == 3
    assert memory.find(bytes([0]), NOW + 10) is None
    memory.forget(bytes([3]))
    memory.forget(bytes([9]))
    assert len(memory) == 1


# --- when issuers fail ----------------------------------------------------------------------------------------------


async def test_an_issuer_that_cannot_be_asked_is_unavailable_and_harms_no_other(
    trust: Trust, provider: IdentityProvider
) -> None:
    """Its own agents are told to come back; agents of others are served meanwhile."""
    async with HostileServer(never) as dead:
        down = provider.trusted("down", issuer="https://down.example", jwks_url=dead.url)
        trust.in_force(down, provider.trusted("plat"))
        waiting = asyncio.create_task(trust.authenticate(provider.oidc(iss="https://down.example")))
        assert (await trust.authenticate(provider.oidc())).agent.id == "plat/user-1"
        with pytest.raises(Unavailable) as unavailable:
            await waiting
    assert unavailable.value.code is Code.ISSUER_UNAVAILABLE
    assert unavailable.value.retry_after
    assert "127.0.0.1" not in unavailable.value.public


async def test_dropping_an_issuer_while_a_request_waits_for_its_keys(trust: Trust, provider: IdentityProvider) -> None:
    """The request gets its answer; the next one is of nobody; closing leaves nothing behind."""
    asked, gate = asyncio.Event(), asyncio.Event()

    async def slowly(_request: Any) -> Any:  # noqa: ANN401 - aiohttp's
        asked.set()
        await gate.wait()
        raise ConnectionResetError

    provider.faults[JWKS] = slowly
    trust.in_force(provider.trusted("plat"))
    waiting = asyncio.create_task(trust.authenticate(provider.oidc()))
    await asked.wait()
    trust.in_force()
    assert await trust.why(provider.oidc()) == "issuer"
    await trust.federation.close()
    gate.set()
    with pytest.raises(Unavailable):
        await waiting


@pytest.mark.parametrize("is_kept", [True, False])
async def test_a_definition_that_is_replaced_while_a_request_waits_for_its_keys(
    trust: Trust, provider: IdentityProvider, *, is_kept: bool
) -> None:
    """An issuer that is trusted no more cannot hold a request up until the operator has dealt with it."""
    gate, asked = asyncio.Event(), asyncio.Event()

    async def slowly(_request: Any) -> Any:  # noqa: ANN401 - as above
        asked.set()
        await gate.wait()
        return web.json_response({"keys": [provider.key.published()]})

    provider.faults[JWKS] = slowly
    trust.in_force(provider.trusted("plat"))
    waiting = asyncio.create_task(trust.why(provider.oidc()))
    await asked.wait()
    trust.in_force(*([provider.trusted("plat", audiences=("https://other.example",))] if is_kept else []))
    gate.set()
    assert await waiting == "issuer"
    assert len(trust.federation._recognition) == 0


async def test_keys_of_all_issuers_are_fetched_ahead(
    trust: Trust, provider: IdentityProvider, stranger: IdentityProvider
) -> None:
    """So that the first agent need not wait; one issuer's failure is no error."""
    stranger.faults[JWKS] = _gone
    trust.in_force(provider.trusted("one"), stranger.trusted("two"))
    await trust.federation.refresh(NOW)
    assert provider.asked[JWKS] == 1
    await trust.authenticate(provider.oidc())
    assert provider.asked[JWKS] == 1


async def test_new_claims_are_noticed(trust: Trust, provider: IdentityProvider) -> None:
    """A claim that a provider did not send before is counted, once its token was verified."""
    trust.in_force(provider.trusted("plat", "kubernetes"))
    await trust.authenticate(provider.kubernetes(brand_new=1))
    await trust.why(SigningKey(kid=provider.key.kid).sign(provider.claims("x", forged=1)))
    assert trust.federation.new_claims.counts == {"plat": {"brand_new": 1}}
