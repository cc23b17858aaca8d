"""Reading what the ledger holds now: entries, rules, agents, keys, tasks, approvals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from broker.core.action import ActionState
from broker.core.approval import ApprovalState
from broker.core.change import RegisteredAgent, StoredKey
from broker.core.inquiry import EntryFilter
from broker.core.personal import Opened
from broker.core.rules import Rule
from broker.core.selector import Selector
from broker.core.story import Story
from broker.core.task import TaskState
from broker.core.usage import Usage


@dataclass(frozen=True, slots=True)
class Idempotent:
    """What an idempotency key was used for."""

    fingerprint: str
    ref: str


@dataclass(frozen=True, slots=True)
class LeaseHits:
    """The leases that a selector covers: those that their backends can end, those that only expire, and when the last.

    ``latest_expiry`` (Unix seconds) is of those that only expire; None if there are none, or if one never does.
    """

    revocable: int = 0
    expires_only: int = 0
    latest_expiry: int | None = None


@dataclass(frozen=True, slots=True)
class Hits:
    """What a selector covers that is alive: counted from the ledger, dead and expired credentials left out."""

    tokens: int
    tasks: int
    agents: int
    latest_expiry: int | None
    leases: LeaseHits = LeaseHits()


@dataclass(frozen=True, slots=True)
class Record:
    """One ledger entry as stored: its place, its canonical bytes, and its decoded members, the personal ones included.

    ``personal`` are those alone, with their salt; None if it has none, or if they were erased.
    """

    seq: int
    body: bytes
    members: Mapping[str, Any]
    personal: Opened | None = None


@dataclass(frozen=True, slots=True)
class FoundRecords:
    """Entries that were found, the oldest first. ``next`` is the place above which to go on, None at the end."""

    records: Sequence[Record]
    next: int | None


@dataclass(frozen=True, slots=True)
class TreeHead:
    """The Merkle tree over all entries: how many, the RFC 6962 root, and the epoch."""

    size: int
    root: bytes
    epoch: int


class Records(Protocol):
    """Reading the ledger. Reads run beside commits and see only what is durable.

    Every method raises ``Unavailable`` (``LEDGER_UNAVAILABLE``) if the store cannot be read.
    """

    async def registered_agent(self, name: str) -> RegisteredAgent | None:
        """Return a registered agent; cached, and never older than the last commit of this process."""
        ...

    async def registered_agents(self) -> Sequence[RegisteredAgent]:
        """Return all registered agents by name."""
        ...

    async def enrollment(self, code_digest: bytes, now: float) -> str | None:
        """Return the agent name that an unused, unexpired enrolment code is for."""
        ...

    async def keys(self) -> Sequence[StoredKey]:
        """Return every key of the broker's ring, revoked ones included."""
        ...

    async def rules(self, *, before: int | None = None, limit: int = 100) -> Sequence[Rule]:
        """Return committed rules, ended ones included, the youngest first, with numbers below ``before``."""
        ...

    async def rule(self, number: int) -> Rule | None:
        """Return a committed rule by its number."""
        ...

    async def hits(
        self, selector: Selector, now: float, *, before: int | None = None, apart_from: Sequence[Selector] = ()
    ) -> Hits:
        """Count the live credentials that a selector covers; ``before`` leaves out tokens of that epoch or later.

        Without ``before``, those are left out that the selectors in ``apart_from`` cover.
        """
        ...

    async def record(self, seq: int) -> Record | None:
        """Return the entry at a place."""
        ...

    async def record_of(self, ref: str) -> Record | None:
        """Return the oldest entry whose ``ref`` this is: a token id, a refusal id, a rule id."""
        ...

    async def records(self, *, after: int = -1, limit: int = 100) -> Sequence[Record]:
        """Return entries with a place above ``after``, oldest first."""
        ...

    async def recent(self, agent: str, limit: int = 10) -> Sequence[Record]:
        """Return what was recorded of an agent of late, the youngest first; looks at the last 100,000 entries only."""
        ...

    async def latest(self, kind: str) -> Record | None:
        """Return the youngest entry of a kind; looks at the last 100,000 entries only."""
        ...

    async def usage(self, since: float) -> Usage:
        """Count what was used of the policy since a time (Unix seconds). Goes through all entries, some ten times."""
        ...

    async def head(self) -> TreeHead:
        """Return the tree head as of the last commit."""
        ...

    async def checkpoint(self) -> str:
        """Return a signed checkpoint (C2SP note) of the current head, persisted before it was signed."""
        ...

    async def inclusion(self, seq: int, size: int) -> Sequence[bytes]:
        """Return the RFC 6962 inclusion proof of entry ``seq`` in the tree of ``size`` entries.

        Raises ``Refused`` (``NOT_FOUND``) if there is no such entry or tree, or if entries that are needed are gone.
        """
        ...

    async def consistency(self, old: int, new: int) -> Sequence[bytes]:
        """Return the RFC 6962 consistency proof between two tree sizes; raises like :meth:`inclusion`."""
        ...

    async def task(self, task_id: str) -> TaskState | None:
        """Return a stored task as of the last commit."""
        ...

    async def tasks(
        self,
        *,
        owner: str | None = None,
        below: str | None = None,
        open_at: float | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> Sequence[TaskState]:
        """Return stored tasks, the youngest first, with ids below ``before``: of one owner, below one task, or open."""
        ...

    async def due_tasks(self, now: float, limit: int = 100) -> Sequence[TaskState]:
        """Return tasks that were not closed though their deadline or idle time-out has passed, parents first.

        A task below another one that is due is left out: it is closed together with it.
        """
        ...

    async def tree_holds_until(self, task_id: str) -> float:
        """Return when the last grant of a task and of all below it expires (Unix seconds; 0: there never was one)."""
        ...

    async def action(self, action_id: str) -> ActionState | None:
        """Return a reservation."""
        ...

    async def actions(
        self, *, task: str | None = None, agent: str | None = None, before: str | None = None, limit: int = 100
    ) -> Sequence[ActionState]:
        """Return reservations, the youngest first: of one task with all below it, or of one agent."""
        ...

    async def approval(self, approval_id: str) -> ApprovalState | None:
        """Return a request for approval with its votes."""
        ...

    async def pending_approval(self, digest: str, now: float) -> ApprovalState | None:
        """Return the request with this digest that waits for a decision, if there is one."""
        ...

    async def approvals(
        self, *, stored: str | None = None, before: str | None = None, limit: int = 100
    ) -> Sequence[ApprovalState]:
        """Return requests for approval, the youngest first, with ids below ``before``; of one stored state."""
        ...

    async def idempotent(self, key: str) -> Idempotent | None:
        """Return what an idempotency key was used for, if it is remembered."""
        ...


class Inquiries(Protocol):
    """Asking the ledger what happened; like :class:`Records` otherwise."""

    async def find(self, wanted: EntryFilter, *, after: int = -1, limit: int = 100) -> FoundRecords:
        """Return entries above a place that are about what is asked.

        Looks through a bounded number of entries: there may be none in the answer, and yet more to come.
        """
        ...

    async def story(self, ref: str) -> Story | None:
        """Return the story of a token, a lease, a task, an approval or a rule; None if nothing is known of it."""
        ...
