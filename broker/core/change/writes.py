"""Writes: what a change does to the state besides adding its entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from broker.core.action import Action
from broker.core.approval import ApprovalRequest, Vote
from broker.core.lease import Lease, LeaseStatus
from broker.core.rules import Block, Rule
from broker.core.task import Task
from broker.core.tree_head import KnownHead


@dataclass(frozen=True, slots=True)
class AddRule:
    """Add a rule; its number must be the current epoch + 1, which becomes the epoch. Fails as ``EpochMoved``.

    A rule whose id was committed before is refused (``GuardFailed`` with ``CONFLICT``): no rule is written twice.

    The ledger sets ``ends_at``: when the longest-lived credential committed so far that the rule could hit has expired,
    plus a margin for skew. A rule that names a token ends with that token and the leases that were taken with it, one
    that names a stored task with the last grant of its tree; for others it is the longest-lived of all.
    """

    rule: Rule


@dataclass(frozen=True, slots=True)
class AcceptRestore:
    """Go on with an older ledger: ``rule`` ends everything, and its number, above the epoch, becomes the epoch.

    Leases that run end with it, and are held until an operator confirms. ``heads`` are what others know of the ledger
    that is lost, and are nothing to worry about from now on. Fails as ``EpochMoved`` if the number is not higher.
    """

    rule: Rule
    heads: tuple[KnownHead, ...]


@dataclass(frozen=True, slots=True)
class AddBlock:
    """Add a block."""

    block: Block


@dataclass(frozen=True, slots=True)
class LiftBlock:
    """End a block at ``at`` (Unix seconds)."""

    block_id: str
    at: float


@dataclass(frozen=True, slots=True)
class RegisteredAgent:
    """An agent that authenticates with its own key. ``jwk`` is the public key (RFC 7517), ``key`` its thumbprint."""

    name: str
    jwk: Mapping[str, Any]
    key: str
    created_at: float
    created_by: str


@dataclass(frozen=True, slots=True)
class PutAgent:
    """Register an agent, or replace its key."""

    agent: RegisteredAgent


@dataclass(frozen=True, slots=True)
class RemoveAgent:
    """Forget a registered agent: it can authenticate no more, and no enrolment code for its name is good any more."""

    name: str


@dataclass(frozen=True, slots=True)
class AddEnrollment:
    """Add a one-time enrolment code, by digest (SHA-256), for the agent ``name``; it ends at ``expires_at``."""

    code_digest: bytes
    name: str
    created_by: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key of the broker's own ring as it is stored: the private part only sealed (encrypted).

    ``kid`` is the RFC 7638 thumbprint; ``use`` is ``"token"`` or ``"checkpoint"``; times are Unix seconds. A key is
    published from ``created_at``, signs from ``active_at`` until a younger one of its ``alg`` does, and is published
    until ``retires_at``. ``revoked`` keys are published no more.
    """

    kid: str
    use: str
    alg: str
    public_jwk: Mapping[str, Any]
    sealed: bytes
    created_at: float
    active_at: float
    retires_at: float | None = None
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class PutKey:
    """Add a key of the broker's ring, or replace its row (same ``kid``)."""

    key: StoredKey


@dataclass(frozen=True, slots=True)
class OpenTask:
    """Store a task. What its budget limits is reserved from its parent (the last of its ``path``) where that limits it.

    Fails with ``BUDGET_USED_UP`` if the parent has not so much left, or limits what the task does not. The parent's
    being open is for a ``TaskOpen`` guard of the same change to say. Fails with ``CONFLICT`` for a known id.
    """

    task: Task


@dataclass(frozen=True, slots=True)
class CloseTask:
    """Close a task and every open task below it, at ``at``.

    What they used stays used in the parent of the closed task, what they did not use returns to it. For a task that is
    not stored, or that is closed, nothing changes: a revocation closes what it names, whatever that is.
    """

    task_id: str
    at: float
    because: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The task was heard of at ``at``; the latest counts."""

    task_id: str
    at: float


@dataclass(frozen=True, slots=True)
class RaiseBudget:
    """Raise the task's limit of a resource by ``count``, and that of every ancestor that limits it.

    What is added is reserved in the ancestors, so that nobody else's share changes.
    """

    task_id: str
    resource: str
    count: int


@dataclass(frozen=True, slots=True)
class Refund:
    """Give back to the task's budget ``count`` of a resource that was spent for nothing.

    If the task was closed meanwhile, it goes back to where the close sent what was unused.
    """

    task_id: str
    resource: str
    count: int


@dataclass(frozen=True, slots=True)
class AddAction:
    """Store a reservation."""

    action: Action


@dataclass(frozen=True, slots=True)
class SettleAction:
    """Note the outcome of a reservation: ``NOT_DONE`` gives back to the task's budget what was reserved.

    If the task was closed meanwhile, it goes back to where the close sent what was unused. ``result`` is text from the
    resource server.
    """

    action_id: str
    outcome: str
    result: str | None
    at: float


@dataclass(frozen=True, slots=True)
class AddApproval:
    """Store a request that waits for people; one of the kind ``BREAK_GLASS`` waits for a review."""

    request: ApprovalRequest


@dataclass(frozen=True, slots=True)
class CastVote:
    """Count a vote. One denial decides; ``quorum`` agreements approve. Comes with an ``ApprovalPending`` guard."""

    approval_id: str
    vote: Vote


@dataclass(frozen=True, slots=True)
class Review:
    """Note that a person looked at a break-glass use. Comes with an ``Unreviewed`` guard."""

    approval_id: str
    vote: Vote


@dataclass(frozen=True, slots=True)
class AddLease:
    """Store the intent of a lease, with the handle by which it can be ended. Fails with ``CONFLICT`` for a known id."""

    lease: Lease
    handle: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SealLease:
    """Note what the backend made of an intent: the lease is live. Comes with a ``LeaseIn`` guard, like all below."""

    lease_id: str
    handle: Mapping[str, str]
    fingerprint: str
    expires_at: int
    good_until: int | None
    renewable: bool
    revocable: bool


@dataclass(frozen=True, slots=True)
class RenewLease:
    """The lease goes on until ``expires_at``, the secret until ``good_until`` (Unix seconds)."""

    lease_id: str
    expires_at: int
    good_until: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EndLease:
    """The lease has ended at ``at``, and is to be revoked at once, also if it was held.

    ``handle`` replaces the one that is known; ``rule`` is the number of the rule that ended it, if one did.
    """

    lease_id: str
    at: float
    because: str
    rule: int | None = None
    handle: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MissLease:
    """Revoking has failed once more. ``next_attempt_at`` (Unix seconds) is None if it was given up."""

    lease_id: str
    error: str
    next_attempt_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleLease:
    """Nothing is left to do for the lease: ``status`` says how it ended.

    ``good_until`` is until when the secret is good, if the backend cannot end it (None: nobody knows).
    """

    lease_id: str
    status: LeaseStatus
    at: float
    note: str | None = None
    good_until: int | None = None


@dataclass(frozen=True, slots=True)
class RetryLease:
    """Revoking the lease is to be tried again from the beginning."""

    lease_id: str
    at: float


@dataclass(frozen=True, slots=True)
class ReleaseHeldLeases:
    """No lease is held any more: those that were are revoked from ``at`` on."""

    at: float


@dataclass(frozen=True, slots=True)
class ErasePersonal:
    """Take away the personal members of the entries at these places, and what state still has of what they record.

    What they record must be over. Entries that have none, or none any more, stay as they are.
    """

    places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RemoveEntries:
    """Remove the entries from ``first`` up to ``end``, which are in an archive; the tree above them stays.

    They must be the first ones that there are, and all must be there: else nothing is changed (``Unavailable``).
    """

    first: int
    end: int


Write = (
    AddRule
    | AcceptRestore
    | AddBlock
    | LiftBlock
    | PutAgent
    | RemoveAgent
    | AddEnrollment
    | PutKey
    | OpenTask
    | CloseTask
    | Heartbeat
    | RaiseBudget
    | Refund
    | AddAction
    | SettleAction
    | AddApproval
    | CastVote
    | Review
    | AddLease
    | SealLease
    | RenewLease
    | EndLease
    | MissLease
    | SettleLease
    | RetryLease
    | ReleaseHeldLeases
    | ErasePersonal
    | RemoveEntries
)
