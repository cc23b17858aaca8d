"""Stock OAuth clients from PyPI work against ``broker serve`` unmodified."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
import requests
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc import jwt as jose_jwt
from joserfc.jwk import ECKey, KeySet
from jwskate import Jwk
from mcp.client.auth.extensions.client_credentials import PrivateKeyJWTOAuthProvider, SignedJWTParameters
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from requests_oauth2client import BearerToken, DPoPToken, OAuth2Client, PrivateKeyJwt
from requests_oauth2client.exceptions import AuthorizationPending, InvalidGrant, InvalidScope, SlowDown

from tests.support.running_broker import PAYMENTS, TICKETS, RunningBroker

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"


def _claims(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def _token(broker: RunningBroker, agent: str, key: Path, *scopes: str) -> str:
    named = [text for scope in scopes for text in ("--scope", scope)]
    answer = broker.ask("token", "--agent", agent, "--key", str(key), "--audience", TICKETS, *named)
    return str(answer["access_token"])


def _metadata(broker: RunningBroker) -> dict[str, str]:
    response = requests.get(f"{broker.issuer}/.well-known/oauth-authorization-server", timeout=10)
    response.raise_for_status()
    metadata: dict[str, str] = response.json()
    return metadata


def test_authlib(broker: RunningBroker, key: Path) -> None:
    """Authlib gets, introspects and revokes a token with its own private_key_jwt."""
    metadata = _metadata(broker)

    def session() -> OAuth2Session:
        # Its assertions live for an hour unless told otherwise, and with claims of one's own it repeats their jti.
        soon = {"exp": int(time.time()) + 120}
        method = PrivateKeyJWT(broker.issuer, claims=soon, alg="ES256")
        return OAuth2Session(
            client_id="alpha",
            client_secret=ECKey.import_key(key.read_text()),
            token_endpoint_auth_method=method,
            revocation_endpoint_auth_method=method,
            scope="tickets:read",
        )

    def introspect() -> bool:
        answer = session().introspect_token(metadata["introspection_endpoint"], token=token["access_token"])
        active: bool = answer.json()["active"]
        return active

    token = session().fetch_token(metadata["token_endpoint"], grant_type="client_credentials", resource=TICKETS)
    assert token["token_type"] == "Bearer"
    assert token["scope"] == "tickets:read"
    assert token["expires_at"] > time.time()
    assert introspect()
    assert session().revoke_token(metadata["revocation_endpoint"], token=token["access_token"]).status_code == 200
    assert not introspect()


def test_authlib_exchanges_a_token(broker: RunningBroker, key: Path, helper_key: Path) -> None:
    """Authlib gets a delegate's token by the exchange grant; nothing of it is special to the broker."""
    whole = _token(broker, "alpha", key, "tickets:read", "tickets:list")
    session = OAuth2Session(
        client_id="beta",
        client_secret=ECKey.import_key(helper_key.read_text()),
        token_endpoint_auth_method=PrivateKeyJWT(broker.issuer, claims={"exp": int(time.time()) + 120}, alg="ES256"),
        scope="tickets:read",
    )
    token = session.fetch_token(
        _metadata(broker)["token_endpoint"],
        grant_type=EXCHANGE,
        subject_token=whole,
        subject_token_type=ACCESS_TOKEN,
        resource=TICKETS,
    )
    assert (token["issued_token_type"], token["token_type"], token["scope"]) == (ACCESS_TOKEN, "Bearer", "tickets:read")
    assert _claims(token["access_token"])["act"] == {"sub": "beta"}


def _client(broker: RunningBroker, agent: str, key: Path) -> OAuth2Client:
    private = Jwk.from_pem(key.read_text()).with_kid_thumbprint()
    metadata = _metadata(broker)
    return OAuth2Client(
        metadata["token_endpoint"],
        issuer=metadata["issuer"],
        revocation_endpoint=metadata["revocation_endpoint"],
        introspection_endpoint=metadata["introspection_endpoint"],
        jwks_uri=metadata["jwks_uri"],
        auth=PrivateKeyJwt(client_id=agent, private_jwk=private, alg="ES256", aud=broker.issuer),
        testing=True,
    )


def test_requests_oauth2client(broker: RunningBroker, key: Path) -> None:
    """requests-oauth2client discovers the broker, gets a bearer and a DPoP token, and understands refusals."""
    client = _client(broker, "alpha", key)
    token = client.client_credentials(scope="tickets:read", resource=TICKETS)
    assert isinstance(token, BearerToken)
    assert client.introspect_token(token)["active"]
    client.revoke_access_token(token)
    assert not client.introspect_token(token)["active"]
    bound = client.client_credentials(scope="tickets:comment", resource=TICKETS, dpop=True)
    assert isinstance(bound, DPoPToken)
    with pytest.raises(InvalidScope):
        client.client_credentials(scope="tickets:delete", resource=TICKETS)


def test_requests_oauth2client_exchanges_tokens(broker: RunningBroker, key: Path, helper_key: Path) -> None:
    """It hands a token on, bound to the delegate's own key if that wants it; the parent's end is the end of both."""
    owner, helper = _client(broker, "alpha", key), _client(broker, "beta", helper_key)
    whole = owner.client_credentials(scope="tickets:read tickets:list", resource=TICKETS)
    part = helper.token_exchange(subject_token=whole, resource=TICKETS, scope="tickets:read")
    bound = helper.token_exchange(subject_token=whole, resource=TICKETS, scope="tickets:read", dpop=True)
    assert (type(part), type(bound)) == (BearerToken, DPoPToken)
    seen = helper.introspect_token(part)
    assert (seen["active"], seen["sub"], seen["act"]) == (True, "alpha", {"sub": "beta"})
    assert helper.introspect_token(bound)["active"]
    with pytest.raises(InvalidScope):
        helper.token_exchange(subject_token=whole, resource=TICKETS, scope="tickets:list")
    owner.revoke_access_token(whole)
    assert not any(helper.introspect_token(token)["active"] for token in (part, bound))


def test_requests_oauth2client_waits_for_people(broker: RunningBroker, key: Path) -> None:
    """A pending answer is what CIBA calls one: its client polls with the id, and gets the token once people agreed."""
    client = _client(broker, "alpha", key)
    with pytest.raises(AuthorizationPending) as pending:
        client.client_credentials(scope="refunds:create", resource=PAYMENTS)
    request = pending.value.response.json()["auth_req_id"]
    with pytest.raises((AuthorizationPending, SlowDown)):
        client.ciba(request)
    broker.command("approvals", "approve", request, "--reason", "agreed")
    token = client.ciba(request)
    assert (_claims(str(token))["aud"], token.scope) == (PAYMENTS, "refunds:create")
    with pytest.raises(InvalidGrant):
        client.ciba(request)


class _Memory:
    """The token storage that the MCP client asks for."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.information: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.information

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.information = client_info


async def test_mcp(broker: RunningBroker) -> None:
    """MCP's client is turned away from the broker's own API, discovers where to get a token, gets one and is let in."""
    signing = SignedJWTParameters(
        issuer="operator",
        subject="operator",
        signing_algorithm="ES256",
        signing_key=(broker.home / "operator.pem").read_text(),
    )
    storage = _Memory()
    provider = PrivateKeyJWTOAuthProvider(
        server_url=f"{broker.issuer}/v1/agents",
        storage=storage,
        client_id="operator",
        assertion_provider=signing.create_assertion_provider(),
        scope="operator:read",
        issuer=broker.issuer,
    )
    async with httpx2.AsyncClient(auth=provider) as client:
        response = await client.get(f"{broker.issuer}/v1/agents")
    assert response.status_code == 200
    assert storage.tokens is not None
    assert storage.tokens.scope == "operator:read"


def test_tokens_verify_with_another_implementation(broker: RunningBroker, key: Path) -> None:
    """joserfc, which the broker does not use, verifies a token with the published keys alone."""
    keys = requests.get(_metadata(broker)["jwks_uri"], timeout=10).json()
    token = jose_jwt.decode(
        _token(broker, "alpha", key, "tickets:read"), KeySet.import_key_set(keys), algorithms=["ES256"]
    )
    assert token.header["typ"] == "at+jwt"
    assert token.claims["iss"] == broker.issuer
    assert token.claims["aud"] == TICKETS
    assert token.claims["scope"] == "tickets:read"
