"""One authenticator for all: each assertion goes to whoever can judge it, and all failures look alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from broker.authenticators.client_assertion import ClientAssertion
from broker.authenticators.dispatch import Dispatch
from broker.authenticators.federation import Federation
from broker.core.change import RegisteredAgent
from broker.core.errors import Code, Refused
from broker.core.jwk import public_jwk, thumbprint
from broker.core.jwt import InvalidToken
from broker.outbound import Outbound
from broker.ports import UnverifiedAssertion
from tests.support.identity_provider import IdentityProvider, SigningKey, forge

NOW = 1_795_300_000.0
BROKER = "https://broker.example"
KEY = SigningKey()
CLAIMS = {"iss": "reader", "sub": "reader", "aud": BROKER, "exp": int(NOW) + 60, "jti": "a1"}


class OneAgent:
    """A registry of one."""

    async def registered_agent(self, name: str) -> RegisteredAgent | None:
        jwk = public_jwk(KEY.private.public_key())
        return RegisteredAgent(name, jwk, thumbprint(jwk), NOW, "operator") if name == "reader" else None


@pytest.fixture
async def provider() -> AsyncIterator[IdentityProvider]:
    """Give a provider on loopback."""
    async with IdentityProvider(lambda: NOW) as provider:
        yield provider


@pytest.fixture
async def dispatch(provider: IdentityProvider) -> AsyncIterator[Dispatch]:
    """Give an authenticator that trusts the provider, a trust domain of its, and one registered agent."""
    issuers = {"plat": provider.trusted("plat"), "mesh": provider.trusted("mesh", "spiffe")}
    async with Outbound(total_seconds=2) as outbound:
        federation = Federation(lambda: issuers, outbound, issuer=BROKER)
        yield Dispatch(federation=federation, registered=ClientAssertion(OneAgent(), issuer=BROKER))
        await federation.close()


async def test_each_assertion_finds_its_judge(dispatch: Dispatch, provider: IdentityProvider) -> None:
    """By the issuer it names, the trust domain of its subject, or the plain name of a registered agent."""
    for token, spiffe, agent, method in (
        (KEY.sign(CLAIMS, kid=None), False, "reader", "private_key_jwt"),
        (provider.oidc(), False, "plat/user-1", "platform"),
        (provider.oidc("reader"), False, "plat/reader", "platform"),
        (provider.svid(), True, "mesh/agent/reviewer", "spiffe"),
        (provider.svid(), False, "mesh/agent/reviewer", "spiffe"),
        (provider.svid(iss="spire"), True, "mesh/agent/reviewer", "spiffe"),
    ):
        for _ in range(2):
            who = await dispatch.authenticate(UnverifiedAssertion(token, spiffe=spiffe), NOW)
            assert (who.agent.id, who.method) == (agent, method)


async def test_only_single_use_assertions_bring_a_guard(dispatch: Dispatch, provider: IdentityProvider) -> None:
    """Client assertions always; platform tokens and SVIDs are legitimately used again (pitfall 10)."""
    assert len((await dispatch.authenticate(UnverifiedAssertion(KEY.sign(CLAIMS, kid=None)), NOW)).guards) == 1
    for token in (provider.oidc(), provider.svid()):
        assert (await dispatch.authenticate(UnverifiedAssertion(token), NOW)).guards == ()


async def test_no_platform_can_speak_for_a_registered_agent(dispatch: Dispatch, provider: IdentityProvider) -> None:
    """A token that names the agent as its issuer must be signed with the agent's key."""
    with pytest.raises(Refused):
        await dispatch.authenticate(UnverifiedAssertion(provider.oidc("reader", iss="reader")), NOW)


async def test_all_failures_look_alike(dispatch: Dispatch, provider: IdentityProvider) -> None:
    """Whether an issuer, an agent or a key exists is not told; why it failed is kept for the metrics."""
    other = SigningKey(kid=provider.key.kid)
    cases = {
        "": "malformed",
        "\ud800": "malformed",
        forge({"alg": "none"}, CLAIMS): "alg",
        KEY.sign({**CLAIMS, "iss": "nobody", "sub": "nobody"}, kid=None): "agent",
        other.sign(CLAIMS, kid=None): "signature",
        KEY.sign({**CLAIMS, "aud": f"{BROKER}/oauth2/token"}, kid=None): "audience",
        provider.oidc(iss="https://nobody.example"): "issuer",
        provider.oidc(iss=None): "issuer",
        provider.oidc(aud="https://other.example"): "audience",
        other.sign(provider.claims("user-1")): "signature",
        provider.svid(trust_domain="other.example"): "issuer",
    }
    seen = set()
    for token, why in cases.items():
        with pytest.raises(Refused) as refused:
            await dispatch.authenticate(UnverifiedAssertion(token), NOW)
        cause = refused.value.__cause__
        assert isinstance(cause, InvalidToken)
        assert cause.why == why
        seen.add((refused.value.code, refused.value.public, refused.value.retry_after, refused.value.refusal))
    assert [code for code, *_ in seen] == [Code.ASSERTION_INVALID]


async def test_a_grant_is_another_partys_word(dispatch: Dispatch, provider: IdentityProvider) -> None:
    """A platform token can be a grant; a registered agent's own assertion cannot."""
    who = await dispatch.authenticate(UnverifiedAssertion(provider.oidc(), as_grant=True), NOW)
    assert who.agent.id == "plat/user-1"
    with pytest.raises(Refused):
        await dispatch.authenticate(UnverifiedAssertion(KEY.sign(CLAIMS, kid=None), as_grant=True), NOW)


async def test_assertions_may_come_all_at_once(dispatch: Dispatch, provider: IdentityProvider) -> None:
    """Good and bad ones beside each other, each with its own answer."""
    tokens = [provider.oidc(f"user-{n}") if n % 2 else provider.oidc(aud="x") for n in range(200)]
    answers = await asyncio.gather(
        *(dispatch.authenticate(UnverifiedAssertion(token), NOW) for token in tokens), return_exceptions=True
    )
    for n, answer in enumerate(answers):
        if n % 2:
            assert not isinstance(answer, BaseException)
            assert answer.agent.id == f"plat/user-{n}"
        else:
            assert isinstance(answer, Refused)
