"""The door for writes, and the rules in force."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from broker.core.change import Change, Receipt
from broker.core.rules import BlockIndex, RuleIndex


class Ledger(Protocol):
    """The only store. Changes go in through :meth:`commit`, and nowhere else."""

    async def commit(self, change: Change) -> Receipt:
        """Apply a change in one serialisable transaction, and return once it is durable.

        Concurrent changes are grouped into one transaction; each stands or falls alone. Cancelling the caller does not
        undo a commit. Guards are evaluated against everything committed before.

        Raises ``EpochMoved`` if an ``EpochIs`` guard failed: the rules that moved the epoch are in the shared
        :class:`RuleIndex` by then. Raises ``GuardFailed`` with the guard's code if another guard failed
        (``ASSERTION_REPLAYED``, ``PROOF_REPLAYED``, ``RATE_LIMITED`` with ``retry_after``, ``CONFLICT``,
        ``ENROLLMENT_INVALID``, ``NOT_FOUND``, ``IDEMPOTENCY_KEY_REUSED``, ``TASK_NOT_OPEN``, ``BUDGET_USED_UP``,
        ``APPROVAL_INVALID``). Raises ``Unavailable``
        (``LEDGER_UNAVAILABLE``) if it could not be made durable; then it was not applied, or, if the store broke in the
        middle of the commit, may have been: callers release nothing either way.
        """
        ...


class Freshness(Protocol):
    """Whether the rules, blocks and keys in memory may be judged by, when several processes share the ledger."""

    async def ensure(self) -> None:
        """Return once everything is in force in this process that was committed before the call, by any process.

        Awaited before a token is judged, with no other await between. It is cheap when nothing has to be looked up.
        Raises ``Unavailable`` (``RULES_STALE``) if that cannot be known: no answer is better than a stale one.
        """
        ...


@dataclass(slots=True)
class Revocations:
    """The rules and blocks in force, shared by all use cases of one process; the ledger keeps it current."""

    rules: RuleIndex = field(default_factory=RuleIndex)
    blocks: BlockIndex = field(default_factory=BlockIndex)
