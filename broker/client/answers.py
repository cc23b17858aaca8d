"""Reading what the token endpoint answers, strictly: what is not exactly an answer is not used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard
from urllib.parse import urlsplit

import msgspec

from broker.client.errors import TokenUnavailable
from broker.client.token import Token, Want
from broker.core.secret import Secret
from broker.outbound import Reply

ACCESS_TOKEN_TYPE: Final = "urn:ietf:params:oauth:token-type:access_token"
DEFAULT_INTERVAL: Final = 5
"""Seconds between two questions when the broker names none (CIBA, 7.3)."""

LONGEST_INTERVAL: Final = 600
MAX_ID: Final = 128

_TOKEN: Final = re.compile(r"[!-~]+")
_ID: Final = re.compile(rf"[A-Za-z0-9._~-]{{1,{MAX_ID}}}")
_PENDING: Final = frozenset({"authorization_pending", "slow_down"})


@dataclass(frozen=True, slots=True)
class Pending:
    """A person has to decide first. Times are in seconds.

    ``expires_in`` is how long there is for that, ``interval`` how long to wait before asking again; ``too_fast`` says
    that the last question came too soon, and that all further ones must wait longer.
    """

    auth_req_id: str
    expires_in: int
    interval: int
    too_fast: bool = False


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
    if not _is_count(expires_in) or expires_in <= 0:
        raise _unusable("expires_in")
    if not isinstance(named, str) or named.lower() != token_type.lower():
        raise TokenUnavailable(f"the broker's answer is not of type {token_type}")
    if not isinstance(scope, str):
        raise _unusable("scope")
    if not isinstance(details, list) or not all(isinstance(element, dict) for element in details):
        raise _unusable("authorization_details")
    if want.subject is not None and body.get("issued_token_type") != ACCESS_TOKEN_TYPE:
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
    )


def read_pending(body: Mapping[str, Any], before: str | None) -> Pending | None:
    """Read an answer that says that a person has to decide first; None if it says something else.

    ``before`` is the id that the request went on with: an answer to that need not repeat it (CIBA, 11).
    """
    auth_req_id = body.get("auth_req_id", before)
    if body.get("error") not in _PENDING or not isinstance(auth_req_id, str) or _ID.fullmatch(auth_req_id) is None:
        return None
    interval, expires_in = body.get("interval"), body.get("expires_in")
    return Pending(
        auth_req_id=auth_req_id,
        expires_in=max(0, expires_in) if _is_count(expires_in) else 0,
        interval=min(interval, LONGEST_INTERVAL) if _is_count(interval) and interval > 0 else DEFAULT_INTERVAL,
        too_fast=body.get("error") == "slow_down",
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


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _unusable(name: str) -> TokenUnavailable:
    return TokenUnavailable(f"the broker's answer has no usable {name}")
