"""Agents that a platform vouches for, from the bytes of their requests to their tokens."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import jwt
import pytest

from tests.support.broker_app import ASSERTION_TYPE, POLICY, TICKETS, BrokerApp, Template, running_app
from tests.support.identity_provider import IdentityProvider

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
MEMBER = "    members: [{agent: alpha}, {agent: beta}"


@pytest.fixture
async def provider() -> AsyncIterator[IdentityProvider]:
    """Run an identity provider."""
    async with IdentityProvider(time.time) as running:
        yield running


@pytest.fixture
async def federated(template: Template, tmp_path: Path, provider: IdentityProvider) -> AsyncIterator[BrokerApp]:
    """Run a broker that trusts the provider for one subject."""
    issuers = (
        "issuers:\n"
        f'  ci: {{preset: oidc, issuer: "{provider.url}", allow_private: true, allow_http: true}}\n'
        "audiences:\n"
    )
    policy = POLICY.replace("audiences:\n", issuers, 1).replace(MEMBER, f"{MEMBER}, {{issuer: ci, subject: builder}}")
    async with running_app(template, tmp_path / "broker") as app:
        app.broker.config.policy.write_text(policy)
        reply = await app.call("POST", "/v1/policy/reload", token=await app.operator())
        assert reply.status == 200, reply.body
        provider.audience = app.issuer
        yield app


def _token(provider: IdentityProvider, subject: str = "builder", **claims: object) -> str:
    return provider.key.sign({**provider.claims(subject), **claims}, typ="JWT")


def _grant(assertion: str) -> dict[str, str]:
    return {"grant_type": JWT_BEARER, "assertion": assertion, "resource": TICKETS, "scope": "tickets:read"}


async def test_a_platform_token_is_a_grant(federated: BrokerApp, provider: IdentityProvider) -> None:
    """With nothing but its platform's token an agent gets one of ours; the same one works again (pitfall 10)."""
    form = _grant(_token(provider))
    assert (await federated.ask(form)).status == 200
    reply = await federated.ask(form)
    assert reply.status == 200, reply.body
    claims = jwt.decode(reply.json["access_token"], options={"verify_signature": False})
    assert claims["sub"].startswith("ci/")
    assert "refresh_token" not in reply.json
    again = await federated.ask({**form, "client_id": claims["client_id"]})
    assert again.status == 200
    other = await federated.ask({**form, "client_id": "alpha"})
    assert (other.status, other.json["error"]) == (400, "invalid_client")


async def test_a_platform_token_authenticates_a_client(federated: BrokerApp, provider: IdentityProvider) -> None:
    """The same token is a client assertion too, at the token endpoint and at introspection."""
    assertion = {"client_assertion": _token(provider), "client_assertion_type": ASSERTION_TYPE}
    form = {"grant_type": "client_credentials", "resource": TICKETS, "scope": "tickets:read", **assertion}
    reply = await federated.ask(form)
    assert reply.status == 200, reply.body
    form = {"token": reply.json["access_token"], **assertion}
    assert (await federated.call("POST", "/oauth2/introspect", data=form)).json["active"] is True
    assert (await federated.call("POST", "/oauth2/revoke", data=form)).status == 200
    assert (await federated.call("POST", "/oauth2/introspect", data=form)).json == {"active": False}


async def test_strangers_are_told_nothing(federated: BrokerApp, provider: IdentityProvider) -> None:
    """Whatever is wrong with an assertion, the answer is the same: not who is trusted, nor who is known (B.5)."""
    async with IdentityProvider(time.time, audience=federated.issuer) as stranger:
        bad = [
            _token(stranger),
            _token(provider, aud="https://other.example"),
            _token(provider, exp=int(time.time()) - 3600),
            stranger.key.sign(provider.claims("builder"), typ="JWT"),
            "eyJhbGciOiJub25lIn0.e30.x",
        ]
        answers = set()
        for assertion in bad:
            reply = await federated.ask(_grant(assertion))
            assert reply.status == 400
            answers.add((reply.json["error"], reply.json["error_description"], reply.json["code"]))
        assert len(answers) == 1
        assert answers.pop()[0] == "invalid_grant"
        assert stranger.asked == {}


async def test_one_of_our_tokens_is_no_assertion(federated: BrokerApp) -> None:
    """An access token and a snapshot of ours do not authenticate anybody, and a snapshot is no access token."""
    token = await federated.operator()
    snapshot = (await federated.call("GET", "/v1/revocations/snapshot", token=token)).body.decode()
    for presented in (token, snapshot):
        reply = await federated.ask(_grant(presented))
        assert (reply.status, reply.json["error"]) == (400, "invalid_grant")
    for presented in (snapshot, federated.assertion("operator")):
        reply = await federated.call("GET", "/v1/keys", token=presented)
        assert (reply.status, reply.json["code"]) == (401, "token_invalid")


async def test_a_provider_that_is_down(federated: BrokerApp, provider: IdentityProvider) -> None:
    """When its keys cannot be had the answer is 503 and when to try again, not a refusal."""
    token = _token(provider)
    await provider.__aexit__()
    reply = await federated.ask(_grant(token))
    assert (reply.status, reply.json["code"]) == (503, "issuer_unavailable")
    assert int(reply.headers["Retry-After"]) > 0
