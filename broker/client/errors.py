"""What a client raises: the broker refuses, or the broker cannot be had."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from broker.client.pending import Pending
from broker.core.errors import Code, Refused, Unavailable

MAX_TEXT: Final = 512

_CODES: Final = {
    "invalid_client": Code.CLIENT_AUTHENTICATION_FAILED,
    "invalid_grant": Code.ASSERTION_INVALID,
    "unauthorized_client": Code.NO_ROLE,
    "unsupported_grant_type": Code.UNSUPPORTED_GRANT_TYPE,
    "invalid_scope": Code.SCOPE_NOT_ALLOWED,
    "invalid_target": Code.AUDIENCE_NOT_ALLOWED,
    "invalid_dpop_proof": Code.PROOF_INVALID,
    "use_dpop_nonce": Code.PROOF_NONCE_REQUIRED,
    "access_denied": Code.APPROVAL_DENIED,
    "expired_token": Code.APPROVAL_EXPIRED,
}
"""For answers that carry only the OAuth error, or a code that this version does not know."""


class TokenRefused(Refused):
    """The broker refuses definitely: asking again without a change on either side gives the same answer.

    ``error`` is the OAuth error (RFC 6749, 5.2), ``code`` the broker's own reason, ``description`` its text for people,
    ``refusal`` the reference that an operator can look up (``broker policy explain --refusal``).
    """

    def __init__(self, error: str, code: Code, description: str, *, refusal: str | None = None) -> None:
        """All texts come from the broker, made printable and cut to a sane length."""
        super().__init__(code, description, refusal=refusal)
        self.error = error
        self.description = description

    def __str__(self) -> str:
        """Say everything that a log line needs."""
        reference = "" if self.refusal is None else f" (refusal {self.refusal})"
        return f"{self.code.value}: {self.description}{reference}"


class TokenUnavailable(Unavailable):
    """No token can be had now. ``retry_after`` (whole seconds) is when asking again may help, if that is known."""

    def __init__(self, public: str, *, retry_after: int | None = None) -> None:
        """``public`` says what failed, without secrets."""
        super().__init__(Code.ISSUER_UNAVAILABLE, public, retry_after=retry_after)

    def __str__(self) -> str:
        """Say everything that a log line needs."""
        return self.public


class TokenPending(TokenUnavailable):
    """A person has to decide first, and did not within the time that the caller was ready to wait.

    Asking for the same token again goes on waiting for the same decision, until ``expires_in`` seconds have passed.
    """

    def __init__(self, auth_req_id: str, *, expires_in: int, interval: int) -> None:
        """``auth_req_id`` is the request's id, which approvers see as well."""
        super().__init__(f"a person has to decide first: {auth_req_id}", retry_after=interval)
        self.auth_req_id = auth_req_id
        self.expires_in = expires_in


class ApiRefused(Refused):
    """The broker's API refuses. ``status`` is the HTTP status, ``code`` the broker's reason.

    ``retry_after`` (whole seconds) is when asking again may help, if the broker said so; ``pending`` says whom to wait
    for, if a person has to decide first.
    """

    def __init__(
        self,
        status: int,
        code: Code,
        description: str,
        *,
        refusal: str | None = None,
        retry_after: int | None = None,
        pending: Pending | None = None,
    ) -> None:
        """All texts come from the broker, made printable and cut to a sane length."""
        super().__init__(code, description, refusal=refusal, retry_after=retry_after)
        self.status = status
        self.description = description
        self.pending = pending

    def __str__(self) -> str:
        """Say everything that a log line needs."""
        return f"{self.code.value}: {self.description}"


class ApiUnavailable(Unavailable):
    """The broker's API could not be asked in time. Whether it did what was asked is not known then."""

    def __init__(self, public: str) -> None:
        """``public`` says what failed, without secrets."""
        super().__init__(Code.ISSUER_UNAVAILABLE, public)

    def __str__(self) -> str:
        """Say everything that a log line needs."""
        return self.public


class TaskRefused(ApiRefused):
    """The broker refuses to open, keep or close a task."""


class TaskUnavailable(ApiUnavailable):
    """The broker could not be asked about a task in time. Whether it did what was asked is not known then."""


class LeaseRefused(ApiRefused):
    """The broker, a person, or the backend of the secret refuses to give, renew or take back a lease."""


class LeaseUnavailable(ApiUnavailable):
    """The broker could not be asked about a lease in time, or its answer was lost or is of no use."""


def refused(body: Mapping[str, Any]) -> TokenRefused:
    """Read an OAuth error answer. ``body`` has a text member ``error``."""
    error = _printable(body["error"]) or "unknown"
    description = _printable(body.get("error_description")) or error
    refusal = _printable(body.get("refusal")) or None
    return TokenRefused(error, _code(body.get("code"), error), description, refusal=refusal)


def problem(body: Mapping[str, Any]) -> tuple[Code, str, str | None]:
    """Read problem details (RFC 9457) of the broker's API: the reason, its text for people, the reference of a refusal.

    ``body`` has a text member ``code``.
    """
    code = _printable(body["code"]) or "unknown"
    description = _printable(body.get("detail")) or _printable(body.get("title")) or code
    return _code(code, code), description, _printable(body.get("refusal")) or None


def _code(code: object, error: str) -> Code:
    try:
        return Code(code if isinstance(code, str) else "")
    except ValueError:
        return _CODES.get(error, Code.MALFORMED_REQUEST)


def _printable(text: object) -> str:
    """Return text from outside without anything that could forge a log line or move a cursor."""
    if not isinstance(text, str):
        return ""
    return "".join(character if character.isprintable() else "?" for character in text[:MAX_TEXT])
