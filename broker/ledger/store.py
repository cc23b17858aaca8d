"""``SqlLedger``: the ledger and its records, assembled from their parts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Final, Self

from broker.core.action import ActionState
from broker.core.approval import ApprovalState
from broker.core.change import Change, Receipt, RegisteredAgent, StoredKey
from broker.core.erasing import Forgetting
from broker.core.errors import Code, Refused, Unavailable
from broker.core.inquiry import EntryFilter
from broker.core.lease import LeaseState, LeaseStatus
from broker.core.propagation import Present, Replica
from broker.core.rules import Rule
from broker.core.selector import Selector
from broker.core.story import Story
from broker.core.task import TaskState
from broker.core.tiles import Tile
from broker.core.usage import Usage
from broker.core.used_proofs import UsedProofs
from broker.ledger import tree
from broker.ledger.checkpoints import Checkpoints, Sign
from broker.ledger.databases import sqlite, statements
from broker.ledger.databases.clock_difference import ClockDifference, difference
from broker.ledger.databases.engines import reader_engine, writer_engine
from broker.ledger.keeping import erasable
from broker.ledger.keeping.compaction import forget_ended_rows
from broker.ledger.opening import Opened, create_ledger, open_ledger
from broker.ledger.reading import (
    anchor_records,
    hits,
    inquiries,
    lease_records,
    presence,
    records,
    status_lists,
    stories,
    task_records,
)
from broker.ledger.reading.reader import Reader
from broker.ledger.reading.usage import UsageCount
from broker.ledger.sharing import memory
from broker.ledger.sharing.database_premises import DatabasePremises
from broker.ledger.sharing.family import Family
from broker.ledger.sharing.file_premises import FilePremises
from broker.ledger.sharing.freshness import AnnouncedFreshness
from broker.ledger.sharing.listening import Listener
from broker.ledger.sharing.recent import RecentFreshness
from broker.ledger.sharing.shared_proofs import SharedProofs
from broker.ledger.sharing.taking import take_premises
from broker.ledger.sharing.view import View
from broker.ledger.verifying.claims import OpenNote
from broker.ledger.verifying.integrity import Integrity
from broker.ledger.writing.group_commit import GroupCommit
from broker.ledger.writing.task_book import tree_holds_until
from broker.ledger.writing.writer import Writer
from broker.ports import (
    Acknowledged,
    Clock,
    Forgettable,
    FoundRecords,
    Hits,
    Idempotent,
    LeaseFilter,
    Left,
    Listed,
    Place,
    Placement,
    Proven,
    Record,
    Revocations,
    SignedHead,
    TreeHead,
)

RULE_MARGIN: Final = 300.0
"""Seconds that a rule outlives the longest-lived token it could hit: room for the skew of verifiers' clocks."""

_CACHED_AGENTS: Final = 4096


@dataclass(frozen=True, slots=True)
class _Notes:
    """How checkpoints are signed, and read again; None where there is no key for it."""

    sign: Sign | None
    open: OpenNote | None


class SqlLedger:
    """Implements ``Ledger`` and the ports for reading it wherever it is. Belongs to the loop that opened it.

    A file is this process's own, or that of a family of processes of this host; a database may have many replicas.
    """

    def __init__(
        self,
        opened: Opened,
        writer: Writer,
        reader: Reader,
        premises: FilePremises | DatabasePremises,
        revocations: Revocations,
        clock: Clock,
        notes: _Notes,
    ) -> None:
        """Use :meth:`open`."""
        self.id = opened.ledger
        self.integrity = Integrity(opened, writer, clock, notes.open)
        self._writer = writer
        self._reader = reader
        self._premises = premises
        self._revocations = revocations
        self._agents: dict[str, RegisteredAgent | None] = {}
        self._agents_age = 0
        self._rules_age = 0
        self._clock = clock
        self._clocks = ClockDifference(inf)
        self._forgotten_at = clock.now()
        self._measured = 0
        self._closed = False
        self.view = View(opened.effects, revocations, clock)
        self.freshness = self._freshness(premises)
        self.proofs = self._proofs(premises)
        memory.forget_ended(revocations, clock.now())
        self._group = GroupCommit(writer, self._take_effect)
        self._checkpoints = Checkpoints(
            self._group, notes.sign, lambda: self.size, clock, made=self.integrity.kept_beside
        )

    @staticmethod
    def create(place: Place, now: float) -> str:
        """Make a new, empty ledger; return its id. Raises ``Unavailable`` if there is one already."""
        return create_ledger(place, now)

    @classmethod
    async def open(  # noqa: PLR0913 - a composition root passes each port by name
        cls,
        place: Place,
        revocations: Revocations,
        *,
        clock: Clock,
        sign: Sign | None = None,
        open_note: OpenNote | None = None,
        family: Family | None = None,
        margin: float = RULE_MARGIN,
        busy_seconds: float = sqlite.BUSY_SECONDS,
    ) -> Self:
        """Take the ledger for this process, migrate and check it, and load what is in force into ``revocations``.

        With a ``family``, this process is one of those for which the ledger was taken before.

        ``sign`` signs checkpoints; it may raise ``Unavailable`` until its key, which is kept in the ledger, is loaded.
        ``open_note`` verifies what it has signed. A ledger that is not sound is opened all the same, as long as its
        rules can be read: nothing can be written to it, and ``integrity`` says why.

        Raises ``Unavailable`` with a text for the operator if another broker has it, or if it cannot be read.
        """
        premises = await asyncio.to_thread(take_premises, place, clock, family)
        try:
            opened = await asyncio.to_thread(open_ledger, place, premises, clock.now(), busy_seconds=busy_seconds)
        except BaseException:
            await asyncio.to_thread(premises.close)
            raise
        writer = Writer(writer_engine(place, busy_seconds), premises, opened.head, clock, margin=margin)
        reader = Reader(reader_engine(place, busy_seconds))
        ledger = cls(opened, writer, reader, premises, revocations, clock, _Notes(sign, open_note))
        with suppress(Unavailable):  # of a ledger that must not be built upon, say
            await ledger.freshness.ensure()
        return ledger

    async def close(self) -> None:
        """Finish what was accepted, make a last checkpoint, and give the ledger back. May be called twice."""
        if self._closed:
            return
        self._closed = True
        await self._checkpoints.close()
        await self.freshness.close()
        if isinstance(self.proofs, SharedProofs):
            await self.proofs.close()
        await self._group.close()
        await self.integrity.close()
        await self._reader.close()
        await asyncio.to_thread(self._writer.close)
        await asyncio.to_thread(self._premises.close)

    def observe(self, batched: Callable[[int], None]) -> None:
        """Tell ``batched``, on the event loop, how many changes each transaction holds from now on."""
        self._group.batched = batched

    @property
    def size(self) -> int:
        """How many entries there are, as far as this process has heard; see :meth:`measure`."""
        return max(self._writer.head.size, self._measured)

    async def measure(self) -> None:
        """Look how many entries there are, whoever added them. Raises ``Unavailable``."""
        self._measured = max(self._measured, (await self.head()).size)

    # --- writing ----------------------------------------------------------------------------------------------------

    async def commit(self, change: Change) -> Receipt:
        """Apply a change; see the port for what is promised. With a wrong clock, only urgent ones are."""
        if not change.urgent:
            self._require_clock()
        return await self._group.submit(change)

    def healthy(self) -> str | None:
        """Return why the ledger cannot be written, in public words, or None if the last transaction was durable."""
        return self._writer.trouble or self._clocks.problem

    async def probe(self) -> str | None:
        """Try a transaction that changes nothing; return :meth:`healthy` after it."""
        try:
            await self._group.run(lambda connection: statements.of(connection).touch(connection))
        except Unavailable as error:
            return error.public
        return self.healthy()

    async def probe_if_troubled(self) -> str | None:
        """Probe only if the last transaction failed: to learn that it works again before somebody needs it."""
        return None if self.healthy() is None else await self.probe()

    async def compact(self, now: float) -> int:
        """Forget everything that has ended before ``now`` (law 11); return how many rows. Raises ``Unavailable``."""
        await self.forget_ended(now)
        return await forget_ended_rows(self._group, now)

    async def forget_ended(self, now: float) -> None:
        """Forget the rules and blocks in memory that have ended before ``now``. Raises ``Unavailable``."""
        self._require_clock()
        await self.recall(now)
        memory.forget_ended(self._revocations, now)
        self._forgotten_at = now

    async def recall(self, now: float) -> None:
        """Put in force again what was forgotten while the clock was ahead of ``now``. Raises ``Unavailable``.

        Costs nothing unless the clock was set back. Else a clock that jumped forward for a moment would bring tokens
        back to life that a rule had killed.
        """
        while now < self._forgotten_at:
            age = self._rules_age
            live = await self._reader.read(lambda connection: memory.load_live(connection, now))
            if age == self._rules_age:  # else a block may have been lifted since it was read
                memory.apply(live, self._revocations)
                self._forgotten_at = now

    # --- reading ----------------------------------------------------------------------------------------------------

    async def registered_agent(self, name: str) -> RegisteredAgent | None:
        """Return a registered agent; cached until a commit changes any, as far as this process knows the ledger."""
        while name not in self._agents:
            age = self._agents_age
            agent = await self._reader.read(lambda connection: records.registered_agent(connection, name))
            if age == self._agents_age:  # else it may have been read before the commit that changed it
                if len(self._agents) >= _CACHED_AGENTS:
                    self._agents.clear()
                self._agents[name] = agent
        return self._agents[name]

    async def registered_agents(self) -> Sequence[RegisteredAgent]:
        """Return all registered agents by name."""
        return await self._reader.read(records.registered_agents)

    async def enrollment(self, code_digest: bytes, now: float) -> str | None:
        """Return the agent name that an unused, unexpired enrolment code is for."""
        return await self._reader.read(lambda connection: records.enrollment(connection, code_digest, now))

    async def keys(self) -> Sequence[StoredKey]:
        """Return every key of the broker's ring, revoked ones included."""
        return await self._reader.read(records.keys)

    async def rules(self, *, before: int | None = None, limit: int = 100) -> Sequence[Rule]:
        """Return committed rules, the youngest first; at most ``rows.MAX_PAGE``."""
        return await self._reader.read(lambda connection: records.rules(connection, before, limit))

    async def rule(self, number: int) -> Rule | None:
        """Return a committed rule by its number."""
        return await self._reader.read(lambda connection: records.rule(connection, number))

    async def hits(
        self, selector: Selector, now: float, *, before: int | None = None, apart_from: Sequence[Selector] = ()
    ) -> Hits:
        """Count the live tokens that a selector covers; see the port."""
        live = (*self._revocations.rules, *hits.supposed(apart_from, now))
        return await self._reader.read(
            lambda connection: hits.count(connection, selector, now, before, live), slow=True
        )

    async def listed(self, list_id: str) -> Listed | None:
        """Return one of the tokens in a status list."""
        return await self._reader.read(lambda connection: status_lists.listed(connection, list_id))

    async def dead_in(self, list_id: str, rules: Sequence[Rule], now: float) -> bytes:
        """Return the bits of the tokens in a status list that some rules kill."""
        return await self._reader.read(
            lambda connection: status_lists.dead_in(connection, list_id, rules, now), slow=True
        )

    async def record(self, seq: int) -> Record | None:
        """Return the entry at a place."""
        return await self._reader.read(lambda connection: records.record(connection, seq))

    async def record_of(self, ref: str) -> Record | None:
        """Return the oldest entry whose ``ref`` this is."""
        return await self._reader.read(lambda connection: records.record_of(connection, ref))

    async def records(self, *, after: int = -1, limit: int = 100) -> Sequence[Record]:
        """Return entries above a place, the oldest first; at most ``rows.MAX_PAGE``."""
        return await self._reader.read(lambda connection: records.records(connection, after, limit))

    async def find(self, wanted: EntryFilter, *, after: int = -1, limit: int = 100) -> FoundRecords:
        """Return entries above a place that are about what is asked; at most ``rows.MAX_PAGE``."""
        return await self._reader.read(lambda connection: inquiries.find(connection, wanted, after, limit), slow=True)

    async def story(self, ref: str) -> Story | None:
        """Return the story of what a reference names."""
        return await self._reader.read(lambda connection: stories.story(connection, ref), slow=True)

    async def forgettable(self, wanted: Forgetting, now: float, *, after: int, limit: int) -> Forgettable:
        """Return entries that are meant and can lose their personal members."""
        return await self._reader.read(
            lambda connection: erasable.forgettable(connection, wanted, after, limit, now), slow=True
        )

    async def forget_erased(self) -> bool:
        """Empty the log, which holds older states of pages; whether nobody was reading one."""
        return await self._group.empty_log()

    async def recent(self, agent: str, limit: int = 10) -> Sequence[Record]:
        """Return what was recorded of an agent of late, the youngest first."""
        return await self._reader.read(lambda connection: records.recent(connection, agent, limit), slow=True)

    async def latest(self, kind: str) -> Record | None:
        """Return the youngest entry of a kind, among the last ``records.RECENT``."""
        return await self._reader.read(lambda connection: records.latest(connection, kind), slow=True)

    async def usage(self, since: float) -> Usage:
        """Count what was used of the policy since a time."""
        counting = UsageCount(since)
        for one in counting.passes():
            await self._reader.read(one, slow=True)
        return counting.result()

    async def head(self) -> TreeHead:
        """Return the tree head as of the last commit."""
        return await self._reader.read(records.tree_head)

    async def checkpoint(self) -> str:
        """Return a signed checkpoint of the current head. Raises ``Unavailable`` without a key to sign with."""
        await self.measure()
        return (await self._checkpoints.make()).note

    def signed_checkpoint(self) -> SignedHead | None:
        """Return the newest checkpoint that was signed, without reading the store."""
        return self._checkpoints.signed

    async def placements(self) -> Sequence[Placement]:
        """Return the youngest placement of each anchor."""
        return await self._reader.read(anchor_records.youngest)

    async def note_placement(self, placement: Placement) -> None:
        """Keep a placement, durably."""
        await self._group.run(lambda connection: anchor_records.note_placement(connection, placement))

    async def cosigned(self) -> str | None:
        """Return the newest checkpoint that a witness has cosigned, as a note with its cosignatures."""
        return await self._reader.read(anchor_records.cosigned)

    async def prove(self, seq: int) -> Proven:
        """Return an entry with its proof; see the port."""
        if seq >= self.size:
            await self.measure()
        if not 0 <= seq < self.size:
            raise Refused(Code.NOT_FOUND, "the ledger has no such entry")
        head = await self._checkpoints.covering(seq + 1)
        return await self._reader.read(lambda connection: tree.proven(connection, seq, head))

    async def tile(self, tile: Tile) -> bytes:
        """Return the content of a tile or a bundle; see the port."""
        return await self._reader.read(lambda connection: tree.tile(connection, tile), slow=tile.level is None)

    async def inclusion(self, seq: int, size: int) -> Sequence[bytes]:
        """Return an inclusion proof. Raises ``Refused`` (``NOT_FOUND``) if there is no such entry or tree."""
        return await self._reader.read(lambda connection: tree.inclusion(connection, seq, size))

    async def consistency(self, old: int, new: int) -> Sequence[bytes]:
        """Return a consistency proof. Raises ``Refused`` (``NOT_FOUND``) if there are no such trees."""
        return await self._reader.read(lambda connection: tree.consistency(connection, old, new))

    async def task(self, task_id: str) -> TaskState | None:
        """Return a stored task as of the last commit."""
        return await self._reader.read(lambda connection: task_records.task(connection, task_id))

    async def tasks(
        self,
        *,
        owner: str | None = None,
        below: str | None = None,
        open_at: float | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> Sequence[TaskState]:
        """Return stored tasks, the youngest first; at most ``rows.MAX_PAGE``."""
        return await self._reader.read(
            lambda connection: task_records.tasks(
                connection, owner=owner, below_task=below, open_at=open_at, before=before, limit=limit
            )
        )

    async def due_tasks(self, now: float, limit: int = 100) -> Sequence[TaskState]:
        """Return the topmost tasks that are over but were not closed."""
        return await self._reader.read(lambda connection: task_records.due_tasks(connection, now, limit))

    async def tree_holds_until(self, task_id: str) -> float:
        """Return when the last grant of a task and of all below it expires."""
        return await self._reader.read(lambda connection: tree_holds_until(connection, task_id))

    async def action(self, action_id: str) -> ActionState | None:
        """Return a reservation."""
        return await self._reader.read(lambda connection: task_records.action(connection, action_id))

    async def actions(
        self, *, task: str | None = None, agent: str | None = None, before: str | None = None, limit: int = 100
    ) -> Sequence[ActionState]:
        """Return reservations, the youngest first; at most ``rows.MAX_PAGE``."""
        return await self._reader.read(lambda connection: task_records.actions(connection, task, agent, before, limit))

    async def approval(self, approval_id: str) -> ApprovalState | None:
        """Return a request for approval with its votes."""
        return await self._reader.read(lambda connection: task_records.approval(connection, approval_id))

    async def pending_approval(self, digest: str, now: float) -> ApprovalState | None:
        """Return the request with this digest that waits for a decision, if there is one."""
        return await self._reader.read(lambda connection: task_records.pending_approval(connection, digest, now))

    async def approvals(
        self, *, stored: str | None = None, before: str | None = None, limit: int = 100
    ) -> Sequence[ApprovalState]:
        """Return requests for approval, the youngest first; at most ``rows.MAX_PAGE``."""
        return await self._reader.read(lambda connection: task_records.approvals(connection, stored, before, limit))

    async def lease(self, lease_id: str) -> LeaseState | None:
        """Return a lease."""
        return await self._reader.read(lambda connection: lease_records.lease(connection, lease_id))

    async def leases(self, wanted: LeaseFilter) -> Sequence[LeaseState]:
        """Return leases, the youngest first; at most ``rows.MAX_PAGE``."""
        return await self._reader.read(lambda connection: lease_records.leases(connection, wanted))

    async def running_leases(self, *, after: str = "", limit: int = 1000) -> Sequence[LeaseState]:
        """Return leases that are opening or live, by id."""
        return await self._reader.read(lambda connection: lease_records.running(connection, after, limit))

    async def over_leases(self, now: float, limit: int = 1000) -> Sequence[LeaseState]:
        """Return live leases whose time is over."""
        return await self._reader.read(lambda connection: lease_records.over(connection, now, limit))

    async def lease_backends(self, now: float) -> Sequence[str]:
        """Return the backends with leases that are to be revoked now."""
        return await self._reader.read(lambda connection: lease_records.backends(connection, now))

    async def lease_work(
        self, backend: str, now: float, limit: int, *, without: frozenset[str] = frozenset()
    ) -> Sequence[LeaseState]:
        """Return the leases of a backend that are to be revoked now, but for some."""
        return await self._reader.read(lambda connection: lease_records.work(connection, backend, now, limit, without))

    async def lease_outcomes(self, rule: int) -> Mapping[LeaseStatus, int]:
        """Return how many of the leases that a rule ended are in each state."""
        return await self._reader.read(lambda connection: lease_records.outcomes(connection, rule))

    async def oldest_lease_end(self) -> float | None:
        """Return since when the lease has waited that waits the longest to be confirmed dead."""
        return await self._reader.read(lease_records.oldest_end)

    async def lease_counts(self) -> Mapping[tuple[str, LeaseStatus], int]:
        """Return how many leases there are by backend and state."""
        return await self._reader.read(lease_records.counts)

    # --- who is there -----------------------------------------------------------------------------------------------

    async def heard(self, told: Sequence[Acknowledged | Left]) -> None:
        """Take note of what verifiers said."""
        await self._group.run(lambda connection: presence.heard(connection, told))

    async def tell(self, replica: Replica) -> None:
        """Say of a replica what it is now."""
        await self._group.run(lambda connection: presence.tell(connection, replica))

    async def leave(self, replica_id: str) -> None:
        """Say that a replica has ended."""
        await self._group.run(lambda connection: presence.leave(connection, replica_id))

    async def present(self) -> Present:
        """Return everybody who is remembered."""
        return await self._reader.read(presence.present)

    async def moment(self) -> float:
        """Return the time by the database's clock."""
        return await self._reader.read(presence.moment)

    async def forget_silent(self, since: float) -> int:
        """Forget everybody who was not heard since a time by the database's clock."""
        return await self._group.run(lambda connection: presence.forget_silent(connection, since))

    # ----------------------------------------------------------------------------------------------------------------

    async def idempotent(self, key: str) -> Idempotent | None:
        """Return what an idempotency key was used for, if it is remembered."""
        return await self._reader.read(lambda connection: records.idempotent(connection, key))

    def _freshness(self, premises: FilePremises | DatabasePremises) -> AnnouncedFreshness | RecentFreshness:
        if isinstance(premises, FilePremises):
            return AnnouncedFreshness(lambda: premises.announced, lambda: self.view.size, self._look)
        self._clocks = ClockDifference(premises.server.max_clock_difference)
        return RecentFreshness(
            premises.server.max_staleness, self._look_and_compare, partial(Listener, premises.server)
        )

    def _proofs(self, premises: FilePremises | DatabasePremises) -> UsedProofs | SharedProofs:
        since = self._clock.now()
        if isinstance(premises, FilePremises):
            return UsedProofs(since=since)
        return SharedProofs(premises.server, self._clocks, since=since)

    def _require_clock(self) -> None:
        if self._clocks.problem is not None:
            raise Unavailable(Code.LEDGER_UNAVAILABLE, f"nothing is issued: {self._clocks.problem}", retry_after=1)

    async def _look_and_compare(self) -> None:
        """Bring the view up to date, and compare the clocks by the way."""
        self._clocks.note(await self._reader.read(lambda connection: difference(connection, self._clock.now)))
        await self._look()

    async def _look(self) -> None:
        self._take_effect(await self.view.look(self._reader, self._writer.head))

    def _take_effect(self, effects: memory.Effects) -> None:
        if not self.view.take(effects):
            return
        self._rules_age += 1
        if effects.agents:
            self._agents.clear()
            self._agents_age += 1
