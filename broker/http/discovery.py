"""What anybody may know about the broker: metadata, keys, and what its error codes mean."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec
from aiohttp import hdrs, web

from broker.core.errors import BrokerError, Code
from broker.core.jwt import CLIENT_ASSERTION, DPOP_PROOF
from broker.core.key_schedule import JWKS_MAX_AGE
from broker.http import paths
from broker.http.answer import JSON, NO_STORE, nothing, public_document
from broker.http.call import Call
from broker.http.oauth import GRANT_TYPES
from broker.http.problem import PROBLEMS
from broker.http.surface import Site

METADATA_MAX_AGE: Final = 300
PREFLIGHT_MAX_AGE: Final = 86_400

_encode: Final = msgspec.json.Encoder().encode
_NO_CODE_FLOW: Final = b"""<!doctype html>
<html lang="en"><title>Not offered</title>
<h1>This broker has no sign-in page</h1>
<p>Agents get their tokens at the token endpoint. Nothing was sent anywhere.</p>
</html>
"""


class Discovery:
    """The public documents of one site. Those that never change while the broker runs are encoded once."""

    def __init__(self, site: Site, scopes: Iterable[str]) -> None:
        """``scopes`` are those of the broker's own API that some route needs."""
        named = sorted(set(scopes))
        self._server = _encode(_server_metadata(site, named))
        self._resource = _encode(_resource_metadata(site, named))

    async def server(self, call: Call) -> web.Response:
        """Authorization server metadata (RFC 8414), which is the OpenID configuration too."""
        return public_document(call, self._server, JSON, METADATA_MAX_AGE)

    async def resource(self, call: Call) -> web.Response:
        """Metadata of the broker's own API as a protected resource (RFC 9728)."""
        return public_document(call, self._resource, JSON, METADATA_MAX_AGE)


async def jwks(call: Call) -> web.Response:
    """``GET /oauth2/jwks.json``: the keys that tokens are signed with now, or will be soon, or were of late."""
    body = _encode(call.services.jwks(call.services.clock.now()))
    return public_document(call, body, JSON, JWKS_MAX_AGE)


async def preflight(_call: Call) -> web.Response:
    """``OPTIONS`` on a public document: any web page may read it (Fetch standard, CORS)."""
    response = nothing()
    response.headers.update(
        {
            "Access-Control-Allow-Origin": "*",
            "Access-Control-Allow-Methods": "GET, HEAD",
            "Access-Control-Allow-Headers": "*",
            "Access-Control-Max-Age": str(PREFLIGHT_MAX_AGE),
        }
    )
    return response


async def authorize(_call: Call) -> web.Response:
    """``GET /oauth2/authorize``: there is no code flow. A page says so; nobody is ever sent anywhere else."""
    headers = {hdrs.CONTENT_TYPE: "text/html; charset=utf-8", hdrs.CACHE_CONTROL: NO_STORE}
    return web.Response(body=_NO_CODE_FLOW, status=400, headers=headers)


async def problem(call: Call) -> web.Response:
    """``GET /problems/{code}``: the meaning of an error code, at the address that problem details name as type."""
    try:
        code = Code(call.path_value("code"))
    except ValueError as error:
        raise BrokerError(Code.NOT_FOUND, "there is no such error code") from error
    status, title = PROBLEMS[code]
    body = _encode({"code": code.value, "title": title, "status": status.value})
    return public_document(call, body, JSON, METADATA_MAX_AGE)


def _server_metadata(site: Site, scopes: list[str]) -> dict[str, Any]:
    """Return what works, and nothing else; members that clients take an absence of for something wrong are there."""
    return {
        "issuer": site.issuer,
        "authorization_endpoint": site.issuer + paths.AUTHORIZE,
        "token_endpoint": site.token_endpoint,
        "jwks_uri": site.issuer + paths.JWKS,
        "revocation_endpoint": site.issuer + paths.REVOKE,
        "introspection_endpoint": site.issuer + paths.INTROSPECT,
        "response_types_supported": ["none"],
        "grant_types_supported": list(GRANT_TYPES),
        # "none" because an assertion grant is its own authentication
        "token_endpoint_auth_methods_supported": ["private_key_jwt", "none"],
        "token_endpoint_auth_signing_alg_values_supported": sorted(CLIENT_ASSERTION.algorithms),
        # without these two, clients assume client_secret_basic
        "revocation_endpoint_auth_methods_supported": ["private_key_jwt"],
        "revocation_endpoint_auth_signing_alg_values_supported": sorted(CLIENT_ASSERTION.algorithms),
        "introspection_endpoint_auth_methods_supported": ["private_key_jwt"],
        "introspection_endpoint_auth_signing_alg_values_supported": sorted(CLIENT_ASSERTION.algorithms),
        "dpop_signing_alg_values_supported": sorted(DPOP_PROOF.algorithms),
        "scopes_supported": scopes,
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256", "RS256"],
    }


def _resource_metadata(site: Site, scopes: list[str]) -> dict[str, Any]:
    return {
        "resource": site.api_audience,
        "authorization_servers": [site.issuer],
        "scopes_supported": scopes,
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": sorted(DPOP_PROOF.algorithms),
        "resource_name": "Broker API",
    }
