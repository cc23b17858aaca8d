"""Guards: what must hold for a change to be applied. Each is judged inside the transaction."""

from __future__ import annotations

from dataclasses import dataclass

from broker.core.lease import LeaseStatus
from broker.core.task import Task


@dataclass(frozen=True, slots=True)
class EpochIs:
    """The current epoch is exactly ``epoch`` (law 2). Fails as ``EpochMoved``."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Unused:
    """``key`` was never used before, and is used up by this change (single use).

    ``key`` is a SHA-256 digest. ``expires_at`` (Unix seconds) says when the record may be forgotten, because what it
    guards is refused as expired from then on. ``what`` is ``"assertion"``, ``"proof"`` or ``"subject"`` (a token to be
    exchanged); it picks the reason code.
    """

    key: bytes
    expires_at: int
    what: str


@dataclass(frozen=True, slots=True)
class RateWithin:
    """No more than ``limit`` changes with this ``key`` commit in any 60 seconds, this one included; it is counted.

    ``at`` is Unix seconds. The count is kept in sub-windows of :data:`RATE_STEP` seconds, and a sub-window counts until
    all of it is older than a minute: the limit is never exceeded, and capacity is back after at most 60 + RATE_STEP s.
    """

    key: str
    limit: int
    at: float


@dataclass(frozen=True, slots=True)
class AgentAbsent:
    """No agent of this name is registered."""

    name: str


@dataclass(frozen=True, slots=True)
class EnrollmentOpen:
    """The enrolment code with this digest exists, is for ``name``, has not expired at ``now``; it is used up."""

    code_digest: bytes
    name: str
    now: float


@dataclass(frozen=True, slots=True)
class BlockInForce:
    """The block exists and has not been lifted."""

    block_id: str


@dataclass(frozen=True, slots=True)
class IdempotencyFresh:
    """No change was committed under this idempotency key yet; it is recorded with the request's fingerprint.

    ``key`` is scoped to the caller by whoever builds it. ``ref`` is what a repeated request is answered from. The
    record is forgotten at ``expires_at`` (Unix seconds).
    """

    key: str
    fingerprint: str
    ref: str
    expires_at: int


@dataclass(frozen=True, slots=True)
class TaskOpen:
    """The task is stored, not closed, and neither past its deadline nor idle for too long at ``at`` (Unix seconds).

    If it is not stored and ``implicit`` is given, that task is stored first. ``holds_until`` is when the grant that
    this change makes in the task expires; the latest is kept.
    Fails as ``GuardFailed`` with ``TASK_NOT_OPEN``.
    """

    task_id: str
    at: float
    implicit: Task | None = None
    holds_until: float = 0


@dataclass(frozen=True, slots=True)
class TaskUnclosed:
    """The task is stored and was not closed, though its time may be over. Fails with ``TASK_NOT_OPEN``.

    With ``over_at`` (Unix seconds) its deadline or its idle time-out must have passed by then: whoever closes a task
    because it was not heard of must not close one that was heard of just now.
    """

    task_id: str
    over_at: float | None = None


@dataclass(frozen=True, slots=True)
class TaskHoldsNothing:
    """No grant of the task or of its sub-tasks, open or closed, is alive at ``at``. Fails with ``CONFLICT``."""

    task_id: str
    at: float


@dataclass(frozen=True, slots=True)
class Spend:
    """The task's budget has ``count`` left of ``resource``, and they are used by this change.

    Passes without counting if the task does not limit the resource and ``limited`` is False; a resource that the task
    has no limit for fails if ``limited`` is True (its budget names others of its kind only). The task must be stored,
    or be named by a ``TaskOpen`` with ``implicit`` in the same change. Sub-tasks have reserved what they may use, so
    looking at one task is exact for all its ancestors. Fails with ``BUDGET_USED_UP``.
    """

    task_id: str
    resource: str
    count: int
    limited: bool


@dataclass(frozen=True, slots=True)
class ActionUnsettled:
    """The action was reserved by ``by``, may still be settled at ``at``, and was not yet.

    Fails with ``NOT_FOUND`` (none of this id by this resource server), or ``CONFLICT`` (settled, or too late).
    """

    action_id: str
    by: str
    at: float


@dataclass(frozen=True, slots=True)
class ApprovalAbsent:
    """No request with this digest waits for a decision at ``at``. Fails with ``CONFLICT``."""

    digest: str
    at: float


@dataclass(frozen=True, slots=True)
class ApprovalPending:
    """The request waits for a decision at ``at``, and ``approver`` has not voted on it yet.

    Fails with ``NOT_FOUND`` or ``CONFLICT``.
    """

    approval_id: str
    approver: str
    at: float


@dataclass(frozen=True, slots=True)
class ApprovalGranted:
    """The request with exactly this digest was approved and may still be used at ``at``; it is used up.

    Fails with ``APPROVAL_INVALID``: unknown, of another digest, not approved, expired, or used.
    """

    approval_id: str
    digest: str
    at: float


@dataclass(frozen=True, slots=True)
class Unreviewed:
    """The break-glass use was not reviewed yet. Fails with ``NOT_FOUND`` or ``CONFLICT``."""

    approval_id: str


@dataclass(frozen=True, slots=True)
class LeasesWithin:
    """The agent has fewer than ``limit`` leases by the role that are not settled. Fails with ``LEASE_LIMIT``."""

    agent: str
    role: str
    limit: int


@dataclass(frozen=True, slots=True)
class LeaseIn:
    """The lease is stored, in one of these states. Fails with ``NOT_FOUND`` or ``LEASE_ENDED``."""

    lease_id: str
    states: frozenset[LeaseStatus]


Guard = (
    EpochIs
    | Unused
    | RateWithin
    | AgentAbsent
    | EnrollmentOpen
    | BlockInForce
    | IdempotencyFresh
    | TaskOpen
    | TaskUnclosed
    | TaskHoldsNothing
    | Spend
    | ActionUnsettled
    | ApprovalAbsent
    | ApprovalPending
    | ApprovalGranted
    | Unreviewed
    | LeasesWithin
    | LeaseIn
)

RATE_STEP = 10
"""Seconds per sub-window of a rate guard."""
