"""``Change``: the one door for writes (law 7). A change is a ledger entry, guards that must hold, and writes.

All three are plain values. The ledger runs them in one transaction: if every guard holds, the writes and the entry are
applied together; if one fails, nothing of the change is applied and the failed guard is named.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker.core.change.guards import (
    RATE_STEP,
    ActionUnsettled,
    AgentAbsent,
    ApprovalAbsent,
    ApprovalGranted,
    ApprovalPending,
    BlockInForce,
    EnrollmentOpen,
    EpochIs,
    Guard,
    IdempotencyFresh,
    LeaseIn,
    LeasesWithin,
    RateWithin,
    Spend,
    TaskHoldsNothing,
    TaskOpen,
    TaskUnclosed,
    Unreviewed,
    Unused,
)
from broker.core.change.writes import (
    AcceptRestore,
    AddAction,
    AddApproval,
    AddBlock,
    AddEnrollment,
    AddLease,
    AddRule,
    CastVote,
    CloseTask,
    EndLease,
    ErasePersonal,
    Heartbeat,
    LiftBlock,
    MissLease,
    OpenTask,
    PutAgent,
    PutKey,
    RaiseBudget,
    Refund,
    RegisteredAgent,
    ReleaseHeldLeases,
    RemoveAgent,
    RemoveEntries,
    RenewLease,
    RetryLease,
    Review,
    SealLease,
    SettleAction,
    SettleLease,
    StoredKey,
    Write,
)
from broker.core.entry import Entry

__all__ = [
    "RATE_STEP",
    "AcceptRestore",
    "ActionUnsettled",
    "AddAction",
    "AddApproval",
    "AddBlock",
    "AddEnrollment",
    "AddLease",
    "AddRule",
    "AgentAbsent",
    "ApprovalAbsent",
    "ApprovalGranted",
    "ApprovalPending",
    "BlockInForce",
    "CastVote",
    "Change",
    "CloseTask",
    "EndLease",
    "EnrollmentOpen",
    "EpochIs",
    "ErasePersonal",
    "Guard",
    "Heartbeat",
    "IdempotencyFresh",
    "LeaseIn",
    "LeasesWithin",
    "LiftBlock",
    "MissLease",
    "OpenTask",
    "PutAgent",
    "PutKey",
    "RaiseBudget",
    "RateWithin",
    "Receipt",
    "Refund",
    "RegisteredAgent",
    "ReleaseHeldLeases",
    "RemoveAgent",
    "RemoveEntries",
    "RenewLease",
    "RetryLease",
    "Review",
    "SealLease",
    "SettleAction",
    "SettleLease",
    "Spend",
    "StoredKey",
    "TaskHoldsNothing",
    "TaskOpen",
    "TaskUnclosed",
    "Unreviewed",
    "Unused",
    "Write",
]


@dataclass(frozen=True, slots=True)
class Change:
    """One atomic change of state with the entry that records it."""

    entry: Entry
    guards: tuple[Guard, ...] = ()
    writes: tuple[Write, ...] = ()
    urgent: bool = False
    """Urgent changes (revocations) go before all others that wait for the next transaction."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The change is durable: ``seq`` is its place in the ledger (from 0), ``epoch`` the epoch after it.

    ``left`` is what the task's budget then had left of the resource that the change spent; None if it spent none, or
    one that is not limited.
    """

    seq: int
    epoch: int
    left: int | None = None
