"""Closing tasks: quietly where nothing is alive in them, else with the one rule that ends everything they hold."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from broker.core.bounds import revoking
from broker.core.change import Change, CloseTask, TaskHoldsNothing, TaskUnclosed
from broker.core.errors import BrokerError, Code, GuardFailed
from broker.core.revoking import OVER, Order
from broker.core.rules import Rule
from broker.core.selector import Selector
from broker.core.task import TaskState
from broker.ports import Caller, Events, Hits, Ledger, Records, Revocations
from broker.tasks.records import End, closed_entry

BROKER: Final = "broker"
"""Who closes a task whose time is over, in the record."""

DUE_AT_ONCE: Final = 100
DUE_ROUNDS: Final = 10
"""How many tasks whose time is over are closed side by side, and how often in a row, in one run of the job."""

_REASONS: Final = {"deadline": "its deadline has passed", "idle": "it was not heard of for its idle time-out"}


class Ended(Protocol):
    """What a rule did that ended everything a task holds; see ``revocation.Outcome``."""

    @property
    def rule(self) -> Rule:
        """The rule."""
        ...

    @property
    def hits(self) -> Hits | None:
        """What it hit, None while that is not counted."""
        ...

    @property
    def durable(self) -> bool:
        """Whether it is written; if not, it is in force, and is written later."""
        ...


class Revoker(Protocol):
    """Makes rules; see ``revocation.Revocation``."""

    async def revoke(self, order: Order, caller: Caller | None) -> Ended:
        """Put a rule in force, and write it together with the end of the task that it closes."""
        ...

    async def outcome(self, rule: Rule) -> Ended:
        """Return what a rule that was made before did."""
        ...


@dataclass(frozen=True, slots=True)
class Closed:
    """A task that was closed, and the rule that ended what it held (None if it held nothing)."""

    state: TaskState
    ended: Ended | None


class Closing:
    """Closes tasks, each exactly once."""

    def __init__(
        self, *, ledger: Ledger, records: Records, revocations: Revocations, revoker: Revoker, events: Events
    ) -> None:
        """``revocations`` are the rules in force in this process."""
        self._ledger = ledger
        self._records = records
        self._revocations = revocations
        self._revoker = revoker
        self._events = events
        self._running: dict[str, asyncio.Task[Closed]] = {}

    async def close(self, state: TaskState, end: End) -> Closed:
        """Close a task: quietly if nothing in it is alive, else together with one rule that ends all of it.

        Whoever closes a task that is just being closed waits for that. Once begun, it is done to the end.
        """
        if state.closed_at is not None:
            return Closed(state, None)
        task_id = state.task.id
        running = self._running.get(task_id)
        if running is None:
            running = self._running[task_id] = asyncio.ensure_future(self._close(state, end))
            running.add_done_callback(lambda done: self._ended(task_id, done))
        return await asyncio.shield(running)

    def _ended(self, task_id: str, done: asyncio.Task[Closed]) -> None:
        del self._running[task_id]
        if not done.cancelled():
            done.exception()  # whoever waits for it gets it; nobody waiting is no fault to report

    async def _close(self, state: TaskState, end: End) -> Closed:
        task_id = state.task.id
        rule = revoking(self._revocations.rules, [task_id])
        if rule is not None and rule.number is None:
            return Closed(state, await self._revoker.outcome(rule))  # it ends the task as soon as it can be written
        try:
            if await self._records.tree_holds_until(task_id) <= end.now and await self._close_quietly(state, end):
                return Closed(await self._after(state, end), None)
            order = Order(selector=Selector(task=task_id), reason=end.reason, by=end.by, closes=end.because)
            ended = await self._revoker.revoke(order, end.caller)
        except GuardFailed as failed:
            if failed.code is not Code.TASK_NOT_OPEN:
                raise
            return Closed(await self._after(state, end), None)  # somebody else was sooner, or it was heard of
        return Closed(await self._after(state, end) if ended.durable else state, ended)

    async def close_due(self, now: float) -> int:
        """Close the tasks whose deadline or idle time-out has passed at ``now``; return how many.

        The number in one run is bounded. What fails is logged and tried again in the next run; it stops no other.
        """
        total = 0
        for _ in range(DUE_ROUNDS):
            due = await self._records.due_tasks(now, DUE_AT_ONCE)
            results = await asyncio.gather(*(self._close_due(state, now) for state in due), return_exceptions=True)
            failures = [result for result in results if isinstance(result, BaseException)]
            total += len(due) - len(failures)
            if failures:
                self._tell(failures)
            if failures or len(due) < DUE_AT_ONCE:
                break
        return total

    async def _close_due(self, state: TaskState, now: float) -> None:
        because = state.ended(now)
        if because is not None:
            await self.close(state, End(because, BROKER, _REASONS[because], None, now))

    async def _close_quietly(self, state: TaskState, end: End) -> bool:
        """Close a task that holds nothing; False if something was granted in it just now."""
        task_id = state.task.id
        over_at = end.now if end.because in OVER else None
        guards = (TaskUnclosed(task_id, over_at), TaskHoldsNothing(task_id, end.now))
        write = CloseTask(task_id, end.now, end.because)
        try:
            await self._ledger.commit(Change(closed_entry(state.task, end), guards, (write,), urgent=True))
        except GuardFailed as failed:
            if failed.code is not Code.CONFLICT:
                raise
            return False
        return True

    async def _after(self, state: TaskState, end: End) -> TaskState:
        """Return a task as it is now that it was closed, as far as it can be read."""
        try:
            found = await self._records.task(state.task.id)
        except BrokerError:
            found = None
        return found or replace(state, closed_at=end.now, closed_because=end.because)

    def _tell(self, failures: Sequence[BaseException]) -> None:
        """Log what went wrong: a line for each kind, however many tasks it was."""
        kinds = Counter(error.code.value for error in failures if isinstance(error, BrokerError))
        for code, number in kinds.items():
            self._events.error("tasks.not_closed", code=code, tasks=number)
        for error in failures:
            if not isinstance(error, BrokerError):
                self._events.error("tasks.not_closed", exc_info=error)
