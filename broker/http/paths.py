"""The paths that are named in more than one place: in the route table, in metadata, in tokens."""

from __future__ import annotations

from typing import Final

from broker.core.status_list import uri_of

API: Final = "/v1"
"""The broker's own API; with the issuer before it, its audience."""

TOKEN: Final = "/oauth2/token"
REVOKE: Final = "/oauth2/revoke"
INTROSPECT: Final = "/oauth2/introspect"
AUTHORIZE: Final = "/oauth2/authorize"
JWKS: Final = "/oauth2/jwks.json"

STATUS_LIST: Final = uri_of("", "{id}")

AUTHORIZATION_SERVER: Final = "/.well-known/oauth-authorization-server"
OPENID_CONFIGURATION: Final = "/.well-known/openid-configuration"
PROTECTED_RESOURCE: Final = "/.well-known/oauth-protected-resource"
API_METADATA: Final = PROTECTED_RESOURCE + API

OAUTH_PATHS: Final = frozenset({TOKEN, REVOKE, INTROSPECT})
"""Where errors are OAuth error answers."""
