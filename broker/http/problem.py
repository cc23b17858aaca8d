"""Errors on the wire: what each code is as HTTP status, as problem details (RFC 9457) and as OAuth error."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

import msgspec

from broker.core.errors import BrokerError, Code, Pending, Refused

PROBLEM_JSON: Final = "application/problem+json"

PROBLEMS: Final[Mapping[Code, tuple[HTTPStatus, str]]] = MappingProxyType(
    {
        Code.MALFORMED_REQUEST: (HTTPStatus.BAD_REQUEST, "The request cannot be understood"),
        Code.DUPLICATE_PARAMETER: (HTTPStatus.BAD_REQUEST, "A parameter is given twice"),
        Code.UNKNOWN_FIELD: (HTTPStatus.BAD_REQUEST, "A field is not known"),
        Code.TOO_LARGE: (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The request is too large"),
        Code.TOO_SLOW: (HTTPStatus.REQUEST_TIMEOUT, "The request came too slowly"),
        Code.UNSUPPORTED_MEDIA_TYPE: (HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The content type is not supported"),
        Code.METHOD_NOT_ALLOWED: (HTTPStatus.METHOD_NOT_ALLOWED, "The method is not allowed"),
        Code.NOT_FOUND: (HTTPStatus.NOT_FOUND, "Not found"),
        Code.CONFLICT: (HTTPStatus.CONFLICT, "It exists already"),
        Code.IDEMPOTENCY_KEY_MISSING: (HTTPStatus.BAD_REQUEST, "An Idempotency-Key is needed"),
        Code.IDEMPOTENCY_KEY_REUSED: (
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "The Idempotency-Key was used for another request",
        ),
        Code.IDEMPOTENCY_KEY_IN_USE: (HTTPStatus.CONFLICT, "The request with this Idempotency-Key is still running"),
        Code.UNSUPPORTED_GRANT_TYPE: (HTTPStatus.BAD_REQUEST, "The grant type is not supported"),
        Code.HISTORY_NOT_KEPT: (HTTPStatus.NOT_IMPLEMENTED, "Only the present is told"),
        Code.CLIENT_AUTHENTICATION_MISSING: (HTTPStatus.UNAUTHORIZED, "The client did not authenticate"),
        Code.CLIENT_AUTHENTICATION_FAILED: (HTTPStatus.UNAUTHORIZED, "The client could not be authenticated"),
        Code.CLIENT_AUTHENTICATION_AMBIGUOUS: (HTTPStatus.BAD_REQUEST, "The client authenticated in more than one way"),
        Code.ASSERTION_INVALID: (HTTPStatus.UNAUTHORIZED, "The assertion is not valid"),
        Code.ASSERTION_REPLAYED: (HTTPStatus.UNAUTHORIZED, "The assertion was used before"),
        Code.ISSUER_UNAVAILABLE: (HTTPStatus.SERVICE_UNAVAILABLE, "The keys of the issuer cannot be had now"),
        Code.ENROLLMENT_INVALID: (HTTPStatus.BAD_REQUEST, "The enrolment code is not valid"),
        Code.PROOF_REQUIRED: (HTTPStatus.UNAUTHORIZED, "A proof of possession is required"),
        Code.PROOF_INVALID: (HTTPStatus.UNAUTHORIZED, "The proof of possession is not valid"),
        Code.PROOF_REPLAYED: (HTTPStatus.UNAUTHORIZED, "The proof of possession was used before"),
        Code.PROOF_NONCE_REQUIRED: (HTTPStatus.UNAUTHORIZED, "The proof of possession needs a nonce"),
        Code.NO_ROLE: (HTTPStatus.FORBIDDEN, "The agent has no role"),
        Code.AUDIENCE_REQUIRED: (HTTPStatus.BAD_REQUEST, "An audience must be named"),
        Code.AUDIENCE_AMBIGUOUS: (HTTPStatus.BAD_REQUEST, "More than one audience is named"),
        Code.AUDIENCE_NOT_ALLOWED: (HTTPStatus.FORBIDDEN, "The audience is not allowed"),
        Code.SCOPE_REQUIRED: (HTTPStatus.BAD_REQUEST, "A scope must be named"),
        Code.SCOPE_MALFORMED: (HTTPStatus.BAD_REQUEST, "The scope is malformed"),
        Code.SCOPE_NOT_ALLOWED: (HTTPStatus.FORBIDDEN, "The scope is not allowed"),
        Code.TASK_MALFORMED: (HTTPStatus.BAD_REQUEST, "The task is malformed"),
        Code.DETAILS_NOT_SUPPORTED: (HTTPStatus.BAD_REQUEST, "Authorization details are not supported"),
        Code.DETAILS_INVALID: (HTTPStatus.BAD_REQUEST, "The authorization details are not valid"),
        Code.DETAILS_NOT_ALLOWED: (HTTPStatus.FORBIDDEN, "The authorization details are not allowed"),
        Code.TASK_REQUIRED: (HTTPStatus.BAD_REQUEST, "A task must be opened and named"),
        Code.TASK_NOT_OPEN: (HTTPStatus.CONFLICT, "The task is not open"),
        Code.TASK_CEILING: (HTTPStatus.FORBIDDEN, "The task does not allow this"),
        Code.SUBJECT_TOKEN_INVALID: (HTTPStatus.BAD_REQUEST, "The subject token is not valid"),
        Code.ACTOR_TOKEN_INVALID: (HTTPStatus.BAD_REQUEST, "The actor token is not valid"),
        Code.DELEGATION_NOT_ALLOWED: (HTTPStatus.FORBIDDEN, "The delegation is not allowed"),
        Code.DELEGATION_TOO_DEEP: (HTTPStatus.FORBIDDEN, "The token was handed on too often"),
        Code.TOKEN_TYPE_NOT_SUPPORTED: (HTTPStatus.BAD_REQUEST, "The token type is not supported"),
        Code.BUDGET_USED_UP: (HTTPStatus.CONFLICT, "The budget of the task is used up"),
        Code.AUTHORIZATION_PENDING: (HTTPStatus.CONFLICT, "A person has to decide first"),
        Code.SLOW_DOWN: (HTTPStatus.CONFLICT, "Asked again too soon"),
        Code.APPROVAL_DENIED: (HTTPStatus.FORBIDDEN, "The request was denied"),
        Code.APPROVAL_EXPIRED: (HTTPStatus.FORBIDDEN, "Nobody approved in time"),
        Code.APPROVAL_INVALID: (HTTPStatus.FORBIDDEN, "The approval does not cover this request"),
        Code.BREAK_GLASS_NOT_ALLOWED: (HTTPStatus.FORBIDDEN, "Going ahead without approval is not allowed"),
        Code.NOT_AN_APPROVER: (HTTPStatus.FORBIDDEN, "Not one of those who may decide"),
        Code.APPROVAL_AMBIGUOUS: (HTTPStatus.FORBIDDEN, "Different people must approve this"),
        Code.BLOCKED: (HTTPStatus.FORBIDDEN, "A block refuses this"),
        Code.POLICY_INVALID: (HTTPStatus.UNPROCESSABLE_ENTITY, "The policy cannot be used"),
        Code.SECRET_NOT_ALLOWED: (HTTPStatus.FORBIDDEN, "The secret is not allowed"),
        Code.LEASE_LIMIT: (HTTPStatus.CONFLICT, "Too many leases are alive"),
        Code.LEASE_ENDED: (HTTPStatus.CONFLICT, "The lease has ended"),
        Code.LEASE_NOT_RENEWABLE: (HTTPStatus.CONFLICT, "The lease cannot be renewed"),
        Code.ENCRYPTION_REQUIRED: (HTTPStatus.BAD_REQUEST, "The secret is only handed out encrypted"),
        Code.BACKEND_UNAVAILABLE: (HTTPStatus.SERVICE_UNAVAILABLE, "The backend of the secret is not available"),
        Code.BACKEND_REFUSED: (HTTPStatus.BAD_GATEWAY, "The backend of the secret refused"),
        Code.ANCHOR_UNAVAILABLE: (HTTPStatus.SERVICE_UNAVAILABLE, "The anchor is not available"),
        Code.ANCHOR_REFUSED: (HTTPStatus.BAD_GATEWAY, "The anchor refused"),
        Code.ANCHOR_LOST: (HTTPStatus.BAD_GATEWAY, "The anchor has lost what it held"),
        Code.ANCHOR_INCONSISTENT: (HTTPStatus.BAD_GATEWAY, "The anchor and the ledger contradict each other"),
        Code.RATE_LIMITED: (HTTPStatus.TOO_MANY_REQUESTS, "Too many requests"),
        Code.OVERLOADED: (HTTPStatus.SERVICE_UNAVAILABLE, "The broker is overloaded"),
        Code.TOKEN_MISSING: (HTTPStatus.UNAUTHORIZED, "An access token is needed"),
        Code.TOKEN_INVALID: (HTTPStatus.UNAUTHORIZED, "The access token is not valid"),
        Code.TOKEN_EXPIRED: (HTTPStatus.UNAUTHORIZED, "The access token has expired"),
        Code.TOKEN_REVOKED: (HTTPStatus.UNAUTHORIZED, "The access token has been revoked"),
        Code.TOKEN_AUDIENCE: (HTTPStatus.UNAUTHORIZED, "The access token is for another resource"),
        Code.INSUFFICIENT_SCOPE: (HTTPStatus.FORBIDDEN, "The access token lacks a scope"),
        Code.VIEW_STALE: (HTTPStatus.SERVICE_UNAVAILABLE, "The view of the rules is too old"),
        Code.SELECTOR_INVALID: (HTTPStatus.BAD_REQUEST, "The selector is not valid"),
        Code.ACK_INVALID: (HTTPStatus.BAD_REQUEST, "The acknowledgement is not valid"),
        Code.RULES_STALE: (HTTPStatus.SERVICE_UNAVAILABLE, "The rules in force cannot be read"),
        Code.LEDGER_UNAVAILABLE: (HTTPStatus.SERVICE_UNAVAILABLE, "The ledger is not available"),
        Code.LEDGER_CORRUPT: (HTTPStatus.SERVICE_UNAVAILABLE, "The ledger is damaged"),
        Code.STOPPING: (HTTPStatus.SERVICE_UNAVAILABLE, "The broker is stopping"),
        Code.INTERNAL: (HTTPStatus.INTERNAL_SERVER_ERROR, "Internal error"),
    }
)
"""What each code is as HTTP status and title. Total: a test holds it against the enumeration."""

OAUTH_ERRORS: Final[Mapping[Code, str]] = MappingProxyType(
    {
        Code.MALFORMED_REQUEST: "invalid_request",
        Code.DUPLICATE_PARAMETER: "invalid_request",
        Code.UNKNOWN_FIELD: "invalid_request",
        Code.TOO_LARGE: "invalid_request",
        Code.TOO_SLOW: "invalid_request",
        Code.UNSUPPORTED_MEDIA_TYPE: "invalid_request",
        Code.METHOD_NOT_ALLOWED: "invalid_request",
        Code.NOT_FOUND: "invalid_request",
        Code.CONFLICT: "invalid_request",
        Code.IDEMPOTENCY_KEY_MISSING: "invalid_request",
        Code.IDEMPOTENCY_KEY_REUSED: "invalid_request",
        Code.IDEMPOTENCY_KEY_IN_USE: "invalid_request",
        Code.UNSUPPORTED_GRANT_TYPE: "unsupported_grant_type",
        Code.HISTORY_NOT_KEPT: "invalid_request",
        Code.CLIENT_AUTHENTICATION_MISSING: "invalid_client",
        Code.CLIENT_AUTHENTICATION_FAILED: "invalid_client",
        Code.CLIENT_AUTHENTICATION_AMBIGUOUS: "invalid_request",
        Code.ASSERTION_INVALID: "invalid_client",
        Code.ASSERTION_REPLAYED: "invalid_client",
        Code.ISSUER_UNAVAILABLE: "temporarily_unavailable",
        Code.ENROLLMENT_INVALID: "invalid_grant",
        Code.PROOF_REQUIRED: "invalid_dpop_proof",
        Code.PROOF_INVALID: "invalid_dpop_proof",
        Code.PROOF_REPLAYED: "invalid_dpop_proof",
        Code.PROOF_NONCE_REQUIRED: "use_dpop_nonce",
        Code.NO_ROLE: "unauthorized_client",
        Code.AUDIENCE_REQUIRED: "invalid_target",
        Code.AUDIENCE_AMBIGUOUS: "invalid_target",
        Code.AUDIENCE_NOT_ALLOWED: "invalid_target",
        Code.SCOPE_REQUIRED: "invalid_scope",
        Code.SCOPE_MALFORMED: "invalid_scope",
        Code.SCOPE_NOT_ALLOWED: "invalid_scope",
        Code.TASK_MALFORMED: "invalid_request",
        Code.DETAILS_NOT_SUPPORTED: "invalid_authorization_details",
        Code.DETAILS_INVALID: "invalid_authorization_details",
        Code.DETAILS_NOT_ALLOWED: "invalid_authorization_details",
        Code.TASK_REQUIRED: "invalid_request",
        Code.TASK_NOT_OPEN: "invalid_request",
        Code.TASK_CEILING: "invalid_scope",
        Code.SUBJECT_TOKEN_INVALID: "invalid_request",
        Code.ACTOR_TOKEN_INVALID: "invalid_request",
        Code.DELEGATION_NOT_ALLOWED: "invalid_request",
        Code.DELEGATION_TOO_DEEP: "invalid_request",
        Code.TOKEN_TYPE_NOT_SUPPORTED: "invalid_request",
        Code.BUDGET_USED_UP: "access_denied",
        Code.AUTHORIZATION_PENDING: "authorization_pending",
        Code.SLOW_DOWN: "slow_down",
        Code.APPROVAL_DENIED: "access_denied",
        Code.APPROVAL_EXPIRED: "expired_token",
        Code.APPROVAL_INVALID: "invalid_grant",
        Code.BREAK_GLASS_NOT_ALLOWED: "unauthorized_client",
        Code.NOT_AN_APPROVER: "access_denied",
        Code.APPROVAL_AMBIGUOUS: "invalid_scope",
        Code.BLOCKED: "unauthorized_client",
        Code.POLICY_INVALID: "server_error",
        Code.SECRET_NOT_ALLOWED: "access_denied",
        Code.LEASE_LIMIT: "access_denied",
        Code.LEASE_ENDED: "invalid_request",
        Code.LEASE_NOT_RENEWABLE: "invalid_request",
        Code.ENCRYPTION_REQUIRED: "invalid_request",
        Code.BACKEND_UNAVAILABLE: "temporarily_unavailable",
        Code.BACKEND_REFUSED: "server_error",
        Code.ANCHOR_UNAVAILABLE: "temporarily_unavailable",
        Code.ANCHOR_REFUSED: "server_error",
        Code.ANCHOR_LOST: "server_error",
        Code.ANCHOR_INCONSISTENT: "server_error",
        Code.RATE_LIMITED: "temporarily_unavailable",
        Code.OVERLOADED: "temporarily_unavailable",
        Code.TOKEN_MISSING: "invalid_token",
        Code.TOKEN_INVALID: "invalid_token",
        Code.TOKEN_EXPIRED: "invalid_token",
        Code.TOKEN_REVOKED: "invalid_token",
        Code.TOKEN_AUDIENCE: "invalid_token",
        Code.INSUFFICIENT_SCOPE: "insufficient_scope",
        Code.VIEW_STALE: "temporarily_unavailable",
        Code.SELECTOR_INVALID: "invalid_request",
        Code.ACK_INVALID: "invalid_request",
        Code.RULES_STALE: "temporarily_unavailable",
        Code.LEDGER_UNAVAILABLE: "temporarily_unavailable",
        Code.LEDGER_CORRUPT: "server_error",
        Code.STOPPING: "temporarily_unavailable",
        Code.INTERNAL: "server_error",
    }
)
"""What each code is as OAuth error, where the assertion is the client's authentication. Total, like the table above."""

_OWN_STATUS: Final = frozenset(
    {
        HTTPStatus.METHOD_NOT_ALLOWED,
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.SERVICE_UNAVAILABLE,
    }
)
"""Statuses that OAuth error answers keep; every other one is a plain 400 (RFC 6749, 5.2)."""

_ABOUT_ASSERTION: Final = frozenset({Code.ASSERTION_INVALID, Code.ASSERTION_REPLAYED})
_encode: Final = msgspec.json.Encoder().encode


def status_of(code: Code) -> HTTPStatus:
    """Return the HTTP status of a code outside the OAuth endpoints."""
    return PROBLEMS[code][0]


def oauth_error(code: Code, *, as_grant: bool = False) -> str:
    """Return the OAuth error of a code. A bad assertion that was the grant itself is ``invalid_grant`` (RFC 7521)."""
    return "invalid_grant" if as_grant and code in _ABOUT_ASSERTION else OAUTH_ERRORS[code]


def oauth_status(code: Code) -> HTTPStatus:
    """Return the HTTP status of a code at the OAuth endpoints, leaving aside when a challenge makes it 401."""
    status = PROBLEMS[code][0]
    return status if status in _OWN_STATUS else HTTPStatus.BAD_REQUEST


def problem_body(error: BrokerError, issuer: str, request_id: str) -> bytes:
    """Return problem details (RFC 9457) as JSON; ``instance`` is the request id."""
    status, title = PROBLEMS[error.code]
    body: dict[str, Any] = {
        "type": f"{issuer}/problems/{error.code.value}",
        "title": title,
        "status": status.value,
        "detail": error.public,
        "instance": request_id,
        "code": error.code.value,
    }
    return _encode(_with_reference(body, error))


def oauth_body(error: BrokerError, *, as_grant: bool) -> bytes:
    """Return an OAuth error answer as JSON, with the broker's own ``code`` and the reference of the refusal."""
    body: dict[str, Any] = {
        "error": oauth_error(error.code, as_grant=as_grant),
        "error_description": ascii_text(error.public),
        "code": error.code.value,
    }
    return _encode(_with_reference(body, error))


def ascii_text(text: str) -> str:
    """Return ``text`` in the characters that ``error_description`` may have: %x20-21 / %x23-5B / %x5D-7E."""
    return "".join("'" if character in '"\\' else character if " " <= character <= "~" else "?" for character in text)


def _with_reference(body: dict[str, Any], error: BrokerError) -> dict[str, Any]:
    if isinstance(error, Refused) and error.refusal is not None:
        body["refusal"] = error.refusal
    if isinstance(error, Pending):
        body |= {"auth_req_id": error.auth_req_id, "expires_in": error.expires_in, "interval": error.interval}
    return body
