"""Budgets of task trees: whatever happens in whatever order, nothing is used twice and nothing is lost."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.core.action import DONE, NOT_DONE, Action
from broker.core.change import (
    ActionUnsettled,
    AddAction,
    Change,
    CloseTask,
    OpenTask,
    RaiseBudget,
    Receipt,
    SettleAction,
    Spend,
    TaskOpen,
    TaskUnclosed,
)
from broker.core.entry import Kind, entry
from broker.core.errors import GuardFailed
from broker.core.task import Budget, Task, TaskState
from broker.ledger.store import SqlLedger
from tests.support.ledgers import NOW, Bench, opened, outcomes

ACTION = "refunds:create"
RESOURCE = f"action:{ACTION}"
TOTAL = 20

steps = st.lists(
    st.tuples(
        st.sampled_from(("open", "spend", "spend", "settle", "undo", "raise", "close", "reopen")),
        st.integers(0, 30),
        st.integers(0, 8),
    ),
    min_size=1,
    max_size=25,
)


@dataclass
class Forest:
    """What a test did: the tasks it made, and the reservations that were not settled."""

    bench: Bench
    tasks: list[Task] = field(default_factory=list)
    unsettled: list[Action] = field(default_factory=list)
    spent: int = 0
    lifted: int = 0
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def change(self, step: str, pick: int, count: int) -> Change | None:
        """Return a step as a change."""
        task = self.tasks[pick % len(self.tasks)]
        record = entry(Kind.TASK_OPENED, NOW, ref=f"{step}-{pick}")
        match step:
            case "open":
                child = made(f"t{len(self.tasks)}", (*task.path, task.id), count)
                self.tasks.append(child)
                return Change(record, (TaskOpen(task.id, NOW),), (OpenTask(child),))
            case "spend":
                action = reservation(f"act{next(self.numbers)}", task.id, count + 1)
                guards = (TaskOpen(task.id, NOW), Spend(task.id, RESOURCE, action.count, limited=True))
                return Change(record, guards, (AddAction(action),))
            case "settle" | "undo" if self.unsettled:
                action = self.unsettled.pop(pick % len(self.unsettled))
                outcome = DONE if step == "settle" else NOT_DONE
                guard = ActionUnsettled(action.id, "gateway", NOW)
                return Change(record, (guard,), (SettleAction(action.id, outcome, None, NOW),))
            case "raise":
                return Change(record, (TaskOpen(task.id, NOW),), (RaiseBudget(task.id, RESOURCE, count + 1),))
            case "close" if task.path:
                return Change(record, (TaskUnclosed(task.id),), (CloseTask(task.id, NOW, "closed"),))
            case _:
                return None

    def note(self, change: Change, became: object) -> None:
        """Take up what became of a change."""
        if not isinstance(became, Receipt):
            assert isinstance(became, GuardFailed), became
            return
        for write in change.writes:
            match write:
                case AddAction(action):
                    self.unsettled.append(action)
                    self.spent += action.count
                case SettleAction(action_id, outcome) if outcome == NOT_DONE:
                    self.spent -= int(action_id.rpartition("*")[2])
                case RaiseBudget(_, _, count):
                    self.lifted += count
                case _:
                    pass


def made(task_id: str, path: tuple[str, ...], limit: int) -> Task:
    """Return a task with a budget of actions."""
    budget = Budget(actions={ACTION: limit})
    return Task(
        id=task_id, owner="a", role="r", purpose="p", opened_at=NOW, deadline=int(NOW) + 900, budget=budget, path=path
    )


def reservation(name: str, task: str, count: int) -> Action:
    """Return a reservation, whose id says how many it is for."""
    return Action(
        id=f"{name}*{count}",
        name=ACTION,
        count=count,
        task=task,
        token="tok",
        agent="a",
        audience="aud",
        by="gateway",
        reserved_at=NOW,
        settle_by=NOW + 900,
    )


async def check(ledger: SqlLedger, forest: Forest) -> None:
    """Check the sums over the whole tree."""
    states: dict[str, TaskState] = {}
    for task in forest.tasks:
        state = await ledger.task(task.id)
        if state is not None:
            states[task.id] = state
    for state in states.values():
        balance = state.balances[RESOURCE]
        assert balance.used >= 0
        assert balance.reserved >= 0
        assert balance.left >= 0
        if state.closed_at is None:
            children = [
                child.balances[RESOURCE].limit
                for child in states.values()
                if child.task.path[-1:] == (state.task.id,) and child.closed_at is None
            ]
            assert balance.reserved == sum(children)
    root = states["root"].balances[RESOURCE]
    alive = sum(
        state.balances[RESOURCE].used for name, state in states.items() if name != "root" and state.closed_at is None
    )
    assert root.limit == TOTAL + forest.lifted
    assert root.used + alive == forest.spent


async def run(path: Path, plan: list[tuple[str, int, int]], together: int) -> None:
    """Carry out a plan, some steps in one batch, and check after each; ``reopen`` is a crash of the process."""
    manager = opened(path)
    bench = await manager.__aenter__()
    forest = Forest(bench, [made("root", (), TOTAL)])
    try:
        await bench.ledger.commit(Change(entry(Kind.TASK_OPENED, NOW, ref="root"), (), (OpenTask(forest.tasks[0]),)))
        batch: list[Change] = []
        for step in [*plan, ("reopen", 0, 0)]:
            change = forest.change(*step)
            if change is not None:
                batch.append(change)
            if len(batch) < together and step[0] != "reopen":
                continue
            for one, became in zip(batch, await outcomes(bench.ledger, batch), strict=True):
                forest.note(one, became)
            batch = []
            await check(bench.ledger, forest)
            if step[0] == "reopen":
                await manager.__aexit__(None, None, None)
                manager = opened(path)
                bench = await manager.__aenter__()
                await check(bench.ledger, forest)
    finally:
        await manager.__aexit__(None, None, None)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=steps, together=st.integers(1, 5))
def test_the_sum_over_the_tree_is_conserved(plan: list[Any], together: int) -> None:
    """For any order of opening, spending, settling, lifting and closing, one by one or in batches, over restarts."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder) / "ledger.db", plan, together))
