"""Reading what the token endpoint answers, strictly: what is not exactly an answer is not used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from broker.client.errors import TokenUnavailable
from broker.client.pending import is_count
from broker.client.token import ACCESS_TOKEN_TYPE, JWT_TYPE, Token, Want
from broker.core.secret import Secret
from broker.outbound import Reply

_TOKEN: Final = re.compile(r"[!-~]+")


def read_object(reply: Reply) -> dict[str, Any]:
    """Return the JSON object of an answer. Raises ``TokenUnavailable`` if it is something else."""
    try:
        return msgspec.json.decode(reply.body, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise TokenUnavailable(f"the broker answers {reply.status} with something that is not a JSON object") from error


def read_token(body: Mapping[str, Any], want: Want, asked_at: float, token_type: str, *, approved: bool) -> Token:
    """Read a successful answer (RFC 6749, 5.1). Raises ``TokenUnavailable`` if it is not what was asked for."""
    access_token, expires_in = body.get("access_token"), body.get("expires_in")
    scope = body.get("scope", " ".join(want.scopes))
    named, details = body.get("token_type"), body.get("authorization_details", [])
    if not isinstance(access_token, str) or _TOKEN.fullmatch(access_token) is None:
        raise _unusable("access_token")
    if not is_count(expires_in) or expires_in <= 0:
        raise _unusable("expires_in")
    if not isinstance(named, str) or named.lower() != token_type.lower():
        raise TokenUnavailable(f"the broker's answer is not of type {token_type}")
    if not isinstance(scope, str):
        raise _unusable("scope")
    if not isinstance(details, list) or not all(isinstance(element, dict) for element in details):
        raise _unusable("authorization_details")
    index = body.get("ledger_index")
    if index is not None and not is_count(index):
        raise _unusable("ledger_index")
    issued = JWT_TYPE if want.identity else ACCESS_TOKEN_TYPE
    if want.subject is not None and body.get("issued_token_type") != issued:
        raise _unusable("issued_token_type")
    return Token(
        secret=Secret(access_token),
        token_type=token_type,
        want=want,
        scopes=tuple(sorted(scope.split())),
        expires_in=expires_in,
        asked_at=asked_at,
        approved=approved,
        details=tuple(details),
        ledger_index=index,
    )


def read_token_endpoint(metadata: Mapping[str, Any], issuer: str) -> str:
    """Return the token endpoint's URL. The metadata must speak for this issuer (RFC 8414, 3.3) and stay on its origin.

    The issuer is the one name that was configured; what its document says must not lead an assertion elsewhere.
    """
    if metadata.get("issuer") != issuer:
        raise TokenUnavailable("the broker's metadata is for another issuer than the configured one")
    url = metadata.get("token_endpoint")
    if not isinstance(url, str) or urlsplit(url)[:2] != urlsplit(issuer)[:2]:
        raise TokenUnavailable("the broker's metadata names no token endpoint on the broker's own origin")
    return url


def _unusable(name: str) -> TokenUnavailable:
    return TokenUnavailable(f"the broker's answer has no usable {name}")
