"""How a refusal is told over HTTP: status, challenges (RFC 6750, RFC 9449, RFC 9728) and ``Retry-After``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import msgspec

from broker.core.dpop import ALGORITHMS
from broker.core.errors import BrokerError, Code, Pending

METADATA_PREFIX: Final = "/.well-known/oauth-protected-resource"

_INVALID_TOKEN: Final = "invalid_token"
_INVALID_PROOF: Final = "invalid_dpop_proof"
_ERRORS: Final[dict[Code, tuple[HTTPStatus, str | None]]] = {
    Code.TOKEN_MISSING: (HTTPStatus.UNAUTHORIZED, None),
    Code.TOKEN_INVALID: (HTTPStatus.UNAUTHORIZED, _INVALID_TOKEN),
    Code.TOKEN_EXPIRED: (HTTPStatus.UNAUTHORIZED, _INVALID_TOKEN),
    Code.TOKEN_REVOKED: (HTTPStatus.UNAUTHORIZED, _INVALID_TOKEN),
    Code.TOKEN_AUDIENCE: (HTTPStatus.UNAUTHORIZED, _INVALID_TOKEN),
    Code.PROOF_REQUIRED: (HTTPStatus.UNAUTHORIZED, _INVALID_PROOF),
    Code.PROOF_INVALID: (HTTPStatus.UNAUTHORIZED, _INVALID_PROOF),
    Code.PROOF_REPLAYED: (HTTPStatus.UNAUTHORIZED, _INVALID_PROOF),
    Code.INSUFFICIENT_SCOPE: (HTTPStatus.FORBIDDEN, "insufficient_scope"),
    Code.MALFORMED_REQUEST: (HTTPStatus.BAD_REQUEST, "invalid_request"),
    Code.RATE_LIMITED: (HTTPStatus.TOO_MANY_REQUESTS, None),
    Code.VIEW_STALE: (HTTPStatus.SERVICE_UNAVAILABLE, None),
    Code.SUBJECT_TOKEN_INVALID: (HTTPStatus.UNAUTHORIZED, _INVALID_TOKEN),
    Code.TASK_NOT_OPEN: (HTTPStatus.CONFLICT, None),
    Code.BUDGET_USED_UP: (HTTPStatus.CONFLICT, None),
    Code.AUTHORIZATION_PENDING: (HTTPStatus.CONFLICT, None),
    Code.SLOW_DOWN: (HTTPStatus.CONFLICT, None),
    Code.APPROVAL_DENIED: (HTTPStatus.FORBIDDEN, None),
    Code.APPROVAL_EXPIRED: (HTTPStatus.FORBIDDEN, None),
    Code.APPROVAL_INVALID: (HTTPStatus.FORBIDDEN, None),
    Code.ISSUER_UNAVAILABLE: (HTTPStatus.SERVICE_UNAVAILABLE, None),
}
"""Every code that a verifier raises, with its status and OAuth error. Those with an error, and 401, get challenges."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What to answer a refused request with: all of it may be told. ``headers`` may name one header twice."""

    status: int
    headers: tuple[tuple[str, str], ...]
    code: str
    detail: str


def answer(error: BrokerError, scopes: Collection[str] = (), resource_metadata: str | None = None) -> Answer:
    """Return the answer for a refusal.

    ``scopes`` are all those that the request needs; ``resource_metadata`` is the URL of the resource's metadata. A code
    that no verifier raises is answered with 500, and nothing of it is told.
    """
    if error.code not in _ERRORS:
        return Answer(HTTPStatus.INTERNAL_SERVER_ERROR.value, (), Code.INTERNAL.value, "internal error")
    status, reason = _ERRORS[error.code]
    headers = [("Cache-Control", "no-store")]
    if error.retry_after is not None:
        headers.append(("Retry-After", str(error.retry_after)))
    if status is HTTPStatus.UNAUTHORIZED or reason is not None:
        where = {"resource_metadata": resource_metadata} if resource_metadata is not None else {}
        needed = {"scope": " ".join(scopes)} if scopes else {}
        why = {"error": reason, "error_description": error.public} if reason is not None else {}
        bearer_why = {} if reason == _INVALID_PROOF else why
        algorithms = {"algs": " ".join(ALGORITHMS)}
        headers.append(("WWW-Authenticate", _challenge("Bearer", {**where, **needed, **bearer_why})))
        headers.append(("WWW-Authenticate", _challenge("DPoP", {**algorithms, **where, **needed, **why})))
    return Answer(status.value, tuple(headers), error.code.value, error.public)


def problem(told: Answer, error: BrokerError) -> bytes:
    """Return the body of an answer as problem+json (RFC 9457); for :class:`Pending`, with the request to go on with."""
    members = {"type": "about:blank", "status": told.status, "code": told.code, "detail": told.detail}
    if isinstance(error, Pending):
        members |= {"auth_req_id": error.auth_req_id, "expires_in": error.expires_in, "interval": error.interval}
    return msgspec.json.encode(members)


def metadata_path(resource: str) -> str:
    """Return the path at which a resource's metadata is served (RFC 9728, 3.1)."""
    path = urlsplit(resource).path
    return METADATA_PREFIX + ("" if path == "/" else path)


def metadata_url(resource: str) -> str:
    """Return the URL of a resource's metadata (RFC 9728, 3.1)."""
    parts = urlsplit(resource)
    return urlunsplit((parts.scheme, parts.netloc, metadata_path(resource), parts.query, ""))


def metadata_document(issuer: str, audience: str, scopes: Collection[str], name: str | None) -> bytes:
    """Return a resource's metadata (RFC 9728, 2): ``scopes`` are those it knows, ``name`` what people call it."""
    document: dict[str, object] = {
        "resource": audience,
        "authorization_servers": [issuer],
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": list(ALGORITHMS),
    }
    if scopes:
        document["scopes_supported"] = list(scopes)
    if name is not None:
        document["resource_name"] = name
    return msgspec.json.encode(document)


def _challenge(scheme: str, parameters: dict[str, str]) -> str:
    quoted = ", ".join(f'{name}="{_quotable(value)}"' for name, value in parameters.items())
    return f"{scheme} {quoted}" if quoted else scheme


def _quotable(text: str) -> str:
    """Return ``text`` with only what may stand in a quoted ``error_description`` or ``scope`` (RFC 6750, 3)."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else "'" for c in text)
