"""The closed set of errors: a stable code, a public text, and a cause that stays inside.

Every refusal that a caller can see carries one :class:`Code`. Codes never change their meaning and are never reused;
adapters map them to a wire format (HTTP status, OAuth error) in one total table each.
"""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """Stable, public reason codes. The text of a member's value is what callers see and the ledger records."""

    # The request itself
    MALFORMED_REQUEST = "malformed_request"
    DUPLICATE_PARAMETER = "duplicate_parameter"
    UNKNOWN_FIELD = "unknown_field"
    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    IDEMPOTENCY_KEY_MISSING = "idempotency_key_missing"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    IDEMPOTENCY_KEY_IN_USE = "idempotency_key_in_use"
    UNSUPPORTED_GRANT_TYPE = "unsupported_grant_type"
    HISTORY_NOT_KEPT = "history_not_kept"

    # Who is calling
    CLIENT_AUTHENTICATION_MISSING = "client_authentication_missing"
    CLIENT_AUTHENTICATION_FAILED = "client_authentication_failed"
    CLIENT_AUTHENTICATION_AMBIGUOUS = "client_authentication_ambiguous"
    ASSERTION_INVALID = "assertion_invalid"
    ASSERTION_REPLAYED = "assertion_replayed"
    ISSUER_UNAVAILABLE = "issuer_unavailable"
    ENROLLMENT_INVALID = "enrollment_invalid"

    # Proof of possession (RFC 9449)
    PROOF_REQUIRED = "proof_required"
    PROOF_INVALID = "proof_invalid"
    PROOF_REPLAYED = "proof_replayed"
    PROOF_NONCE_REQUIRED = "proof_nonce_required"

    # What the policy says
    NO_ROLE = "no_role"
    AUDIENCE_REQUIRED = "audience_required"
    AUDIENCE_AMBIGUOUS = "audience_ambiguous"
    AUDIENCE_NOT_ALLOWED = "audience_not_allowed"
    SCOPE_REQUIRED = "scope_required"
    SCOPE_MALFORMED = "scope_malformed"
    SCOPE_NOT_ALLOWED = "scope_not_allowed"
    TASK_MALFORMED = "task_malformed"
    DETAILS_NOT_SUPPORTED = "details_not_supported"
    DETAILS_INVALID = "details_invalid"
    DETAILS_NOT_ALLOWED = "details_not_allowed"
    APPROVAL_AMBIGUOUS = "approval_ambiguous"
    BLOCKED = "blocked"
    POLICY_INVALID = "policy_invalid"

    # Tasks, delegation and actions
    TASK_REQUIRED = "task_required"
    TASK_NOT_OPEN = "task_not_open"
    TASK_CEILING = "task_ceiling"
    SUBJECT_TOKEN_INVALID = "subject_token_invalid"
    ACTOR_TOKEN_INVALID = "actor_token_invalid"
    DELEGATION_NOT_ALLOWED = "delegation_not_allowed"
    DELEGATION_TOO_DEEP = "delegation_too_deep"
    TOKEN_TYPE_NOT_SUPPORTED = "token_type_not_supported"
    BUDGET_USED_UP = "budget_used_up"

    # Approvals (CIBA's words where it has them)
    AUTHORIZATION_PENDING = "authorization_pending"
    SLOW_DOWN = "slow_down"
    APPROVAL_DENIED = "approval_denied"
    APPROVAL_EXPIRED = "approval_expired"
    APPROVAL_INVALID = "approval_invalid"
    BREAK_GLASS_NOT_ALLOWED = "break_glass_not_allowed"
    NOT_AN_APPROVER = "not_an_approver"

    # Leases
    SECRET_NOT_ALLOWED = "secret_not_allowed"
    LEASE_LIMIT = "lease_limit"
    LEASE_ENDED = "lease_ended"
    LEASE_NOT_RENEWABLE = "lease_not_renewable"
    ENCRYPTION_REQUIRED = "encryption_required"
    BACKEND_UNAVAILABLE = "backend_unavailable"
    BACKEND_REFUSED = "backend_refused"

    # Anchors of the ledger
    ANCHOR_UNAVAILABLE = "anchor_unavailable"
    ANCHOR_REFUSED = "anchor_refused"
    ANCHOR_LOST = "anchor_lost"
    ANCHOR_INCONSISTENT = "anchor_inconsistent"

    # Limits
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"

    # Tokens at a protected resource
    TOKEN_MISSING = "token_missing"
    TOKEN_INVALID = "token_invalid"
    TOKEN_EXPIRED = "token_expired"
    TOKEN_REVOKED = "token_revoked"
    TOKEN_AUDIENCE = "token_audience"
    INSUFFICIENT_SCOPE = "insufficient_scope"
    VIEW_STALE = "view_stale"

    # Revocation
    SELECTOR_INVALID = "selector_invalid"
    ACK_INVALID = "ack_invalid"

    # The broker's own state
    RULES_STALE = "rules_stale"
    LEDGER_UNAVAILABLE = "ledger_unavailable"
    LEDGER_CORRUPT = "ledger_corrupt"
    STOPPING = "stopping"
    INTERNAL = "internal"


class BrokerError(Exception):
    """A refusal or failure with a stable code and a text that is safe to show to the caller.

    ``public`` never contains secrets, tokens, assertions or another party's data. The cause (``__cause__``) is for the
    log's class name only and is never sent.
    """

    def __init__(self, code: Code, public: str, *, retry_after: int | None = None) -> None:
        """``retry_after`` is in whole seconds, for codes that end by themselves."""
        super().__init__(code.value)
        self.code = code
        self.public = public
        self.retry_after = retry_after


class Refused(BrokerError):
    """The caller may not have what was asked. ``refusal`` names the ledger entry that records it, if there is one."""

    def __init__(self, code: Code, public: str, *, refusal: str | None = None, retry_after: int | None = None) -> None:
        """``refusal`` is the reference to quote to an operator (``broker policy explain --refusal``)."""
        super().__init__(code, public, retry_after=retry_after)
        self.refusal = refusal


class Pending(BrokerError):
    """A person has to decide first: the request was put before them, and the caller asks again with its id."""

    def __init__(self, code: Code, public: str, *, auth_req_id: str, expires_in: int, interval: int) -> None:
        """``code`` is ``AUTHORIZATION_PENDING`` or ``SLOW_DOWN``; times are in whole seconds."""
        super().__init__(code, public, retry_after=interval)
        self.auth_req_id = auth_req_id
        self.expires_in = expires_in
        self.interval = interval


class Unavailable(BrokerError):
    """The broker cannot do this now, and nothing was released. Retrying later may help."""


class BackendFailed(BrokerError):
    """A backend of leases did not do what it was asked.

    ``BACKEND_UNAVAILABLE``: it cannot now (unreachable, slow, sealed, overloaded); trying again may help.
    ``BACKEND_REFUSED``: it will not (no permission, no such path, an answer that cannot be used); somebody must change
    something. ``LEASE_ENDED``: it does not know the lease any more. ``uncertain`` says that it may have done it all the
    same, the answer having been lost.
    """

    def __init__(self, code: Code, public: str, *, uncertain: bool = False, retry_after: int | None = None) -> None:
        """``public`` says what went wrong, without anything that the backend or the caller keeps secret."""
        super().__init__(code, public, retry_after=retry_after)
        self.uncertain = uncertain


class AnchorFailed(BrokerError):
    """An anchor does not hold what it was given, or cannot say what it holds.

    ``ANCHOR_UNAVAILABLE``: it cannot now (unreachable, slow, full); trying again may help. ``ANCHOR_REFUSED``: it will
    not (no permission, an unknown key, an answer that cannot be used); somebody must change something.
    ``ANCHOR_LOST``: it held more once than it holds now. ``ANCHOR_INCONSISTENT``: what it holds and what the ledger has
    are not one history.
    """


def too_many_rules() -> Unavailable:
    """Return what to raise when a decision was made again and again, and a rule got in between each time."""
    text = "revocations are being made faster than this request can be decided; try again"
    return Unavailable(Code.OVERLOADED, text, retry_after=1)


class GuardFailed(BrokerError):
    """A guard of a change did not hold inside the transaction; nothing of that change was applied."""


class EpochMoved(Exception):
    """A revocation was committed after the decision was made (law 2): catch up with the rules and decide again."""


class Malformed(BrokerError):
    """Input that could not be understood; the text says which part and why."""

    def __init__(self, public: str, code: Code = Code.MALFORMED_REQUEST) -> None:
        """``public`` names the field and the reason, without repeating untrusted input."""
        super().__init__(code, public)
