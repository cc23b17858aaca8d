"""Group commit: one thread takes everything that waits, makes it durable in one transaction, and answers all at once.

There is no pause to collect a larger batch: while one transaction is being synced, the next batch gathers by itself.
What one turn of the event loop submits is handed over together, so that the thread, which needs the interpreter's lock
as the loop does, is not woken for the first change of many.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

from sqlalchemy import Connection

from broker.core.change import Change, Receipt
from broker.core.errors import Code, Unavailable
from broker.ledger.databases.failures import unavailable
from broker.ledger.sharing.memory import Effects
from broker.ledger.writing.batch import Outcome, Proposal
from broker.ledger.writing.writer import Writer

MAX_BATCH: Final = 512
"""With this many changes a transaction is full: what waits besides goes into the next one."""

MAX_WAITING: Final = 8192
"""The most changes that may be unanswered; more are refused at once, so that memory stays bounded (law 10)."""

IDLE_SECONDS: Final = 2.0
"""After this long without work, what was written is copied from the log into the database itself."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Waiting:
    proposal: Proposal
    answer: asyncio.Future[Receipt]


@dataclass(frozen=True, slots=True)
class _Job:
    """Something else for the writer thread."""

    work: Callable[[], Any]
    answer: asyncio.Future[Any]


@dataclass(slots=True)
class _Taken:
    """What the thread took from the queue at once."""

    changes: list[_Waiting] = field(default_factory=list)
    jobs: list[_Job] = field(default_factory=list)
    last: bool = False
    idle: bool = False
    """Whether there was nothing to do for a while, for the first time since there was something."""

    def add(self, item: list[_Waiting] | _Job | _Stop) -> None:
        """Take one thing that the queue held."""
        if isinstance(item, list):
            self.changes += item
        elif isinstance(item, _Job):
            self.jobs.append(item)
        elif item is _STOP:
            self.last = True


class _Stop:
    """What the queue holds when there will be no more work."""


_STOP: Final = _Stop()


class GroupCommit:
    """The queue, the thread, and the way back to the event loop."""

    def __init__(self, writer: Writer, effect: Callable[[Effects], None]) -> None:
        """``effect`` brings the memory up to date; it runs on the event loop, before any answer is given."""
        self.batched: Callable[[int], None] = lambda _changes: None
        """Told, on the event loop, how many changes a transaction held."""
        self._writer = writer
        self._effect = effect
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[list[_Waiting] | _Job | _Stop] = SimpleQueue()
        self._gathering: list[_Waiting] = []
        self._handing_over = False
        self._unanswered = 0
        self._urgent: deque[_Waiting] = deque()
        self._closed = False
        self._worked = False
        # A daemon: a process that ends without closing must not hang. What was acknowledged is durable anyway.
        self._thread = threading.Thread(target=self._work, name="ledger-writer", daemon=True)
        self._thread.start()

    def submit(self, change: Change) -> asyncio.Future[Receipt]:
        """Queue a change; the future is its outcome. Raises :class:`Unavailable` when stopping or overloaded."""
        self._require_open()
        waiting = _Waiting(Proposal.of(change), self._loop.create_future())
        if change.urgent:
            self._urgent.append(waiting)
        elif self._unanswered >= MAX_WAITING:
            raise Unavailable(Code.OVERLOADED, "too many changes wait for the ledger", retry_after=1)
        else:
            self._unanswered += 1
            self._gathering.append(waiting)
        if not self._handing_over:
            self._handing_over = True
            self._loop.call_soon(self._hand_over)
        return waiting.answer

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a write transaction of its own, between batches. Raises :class:`Unavailable`."""
        return await self._queued(lambda: self._writer.run(work))

    async def empty_log(self) -> bool:
        """Cut the log to nothing, between batches; whether that was possible now. Raises :class:`Unavailable`."""
        return await self._queued(self._writer.empty_log)

    async def _queued(self, work: Callable[[], T]) -> T:
        self._require_open()
        answer: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Job(work, answer))
        return await answer

    async def close(self) -> None:
        """Finish everything that was accepted, then end the thread."""
        if not self._closed:
            self._closed = True
            self._hand_over()
            self._queue.put(_STOP)
        while self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _hand_over(self) -> None:
        """Wake the thread for what this turn of the loop has submitted, for the urgent lane, too."""
        if self._handing_over:
            self._handing_over = False
            self._queue.put(self._gathering)
            self._gathering = []

    def _require_open(self) -> None:
        if self._closed:
            raise Unavailable(Code.STOPPING, "the broker is stopping")

    # --- in the writer thread ---------------------------------------------------------------------------------------

    def _work(self) -> None:
        taken = _Taken()
        while not taken.last:
            taken = self._take()
            if taken.changes:
                self._commit(taken.changes)
            for job in taken.jobs:
                self._run(job)
            if taken.idle or self._writer.log_is_long:
                self._writer.copy_back()

    def _take(self) -> _Taken:
        """Wait for work, then take all there is, urgent changes first."""
        try:
            first = self._queue.get(timeout=IDLE_SECONDS if self._worked else None)
        except Empty:
            self._worked = False
            return _Taken(idle=True)
        self._worked = True
        taken = _Taken()
        taken.add(first)
        # Nobody else takes from the queue, so what it holds now can be had without waiting.
        for _ in range(self._queue.qsize()):
            if len(taken.changes) >= MAX_BATCH:
                break
            taken.add(self._queue.get_nowait())
        # After the queue: whoever is late for this look at the urgent lane has left a signal that is still there.
        taken.changes[:0] = [self._urgent.popleft() for _ in range(len(self._urgent))]
        return taken

    def _commit(self, batch: Sequence[_Waiting]) -> None:
        """The order of effects is the design.

        1. The transaction is durable (or is known to have failed).
        2. On the event loop, the memory is brought up to date: rules, blocks, caches.
        3. In the same step, the callers are released. So who sees a receipt, or ``EpochMoved``, sees its rules, too.
        """
        outcomes = self._writer.apply([waiting.proposal for waiting in batch])
        self._deliver(lambda: self._answer(batch, outcomes))

    def _run(self, job: _Job) -> None:
        try:
            result = job.work()
        except Exception as error:  # noqa: BLE001 - every failure is somebody's answer
            failure = unavailable(error)
            self._deliver(lambda: None if job.answer.done() else job.answer.set_exception(failure))
            return
        self._deliver(lambda: None if job.answer.done() else job.answer.set_result(result))

    def _deliver(self, answer: Callable[[], None]) -> None:
        effects = self._writer.take_effects()

        def on_loop() -> None:
            for each in effects:
                self._effect(each)
            answer()

        try:
            self._loop.call_soon_threadsafe(on_loop)
        except RuntimeError:
            # The loop was closed without closing the ledger: nobody is left to be told.
            return

    def _answer(self, batch: Sequence[_Waiting], outcomes: Sequence[Outcome]) -> None:
        self.batched(len(batch))
        for waiting, outcome in zip(batch, outcomes, strict=True):
            self._unanswered -= not waiting.proposal.change.urgent
            if waiting.answer.done():
                continue  # the caller was cancelled; its change is committed all the same
            if isinstance(outcome, Receipt):
                waiting.answer.set_result(outcome)
            else:
                waiting.answer.set_exception(outcome)
