"""Stock OAuth clients from PyPI work against ``broker serve`` unmodified."""

from __future__ import annotations

import time
from pathlib import Path

import httpx2
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
from requests_oauth2client.exceptions import InvalidScope

from tests.support.running_broker import TICKETS, RunningBroker


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


def test_requests_oauth2client(broker: RunningBroker, key: Path) -> None:
    """requests-oauth2client discovers the broker, gets a bearer and a DPoP token, and understands refusals."""
    private = Jwk.from_pem(key.read_text()).with_kid_thumbprint()
    metadata = _metadata(broker)
    client = OAuth2Client(
        metadata["token_endpoint"],
        issuer=metadata["issuer"],
        revocation_endpoint=metadata["revocation_endpoint"],
        introspection_endpoint=metadata["introspection_endpoint"],
        jwks_uri=metadata["jwks_uri"],
        auth=PrivateKeyJwt(client_id="alpha", private_jwk=private, alg="ES256", aud=broker.issuer),
        testing=True,
    )
    token = client.client_credentials(scope="tickets:read", resource=TICKETS)
    assert isinstance(token, BearerToken)
    assert client.introspect_token(token)["active"]
    client.revoke_access_token(token)
    assert not client.introspect_token(token)["active"]
    bound = client.client_credentials(scope="tickets:comment", resource=TICKETS, dpop=True)
    assert isinstance(bound, DPoPToken)
    with pytest.raises(InvalidScope):
        client.client_credentials(scope="tickets:delete", resource=TICKETS)


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
    answer = broker.ask(
        "token", "--agent", "alpha", "--key", str(key), "--audience", TICKETS, "--scope", "tickets:read"
    )
    keys = requests.get(_metadata(broker)["jwks_uri"], timeout=10).json()
    token = jose_jwt.decode(answer["access_token"], KeySet.import_key_set(keys), algorithms=["ES256"])
    assert token.header["typ"] == "at+jwt"
    assert token.claims["iss"] == broker.issuer
    assert token.claims["aud"] == TICKETS
    assert token.claims["scope"] == "tickets:read"
