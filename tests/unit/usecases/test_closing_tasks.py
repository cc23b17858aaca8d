"""Closing tasks: everything in them ends at once, exactly once, by at most one rule, and whatever races with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.core.change import Change, CloseTask, Receipt
from broker.core.claims import AccessClaims
from broker.core.errors import BrokerError, Code, EpochMoved, Refused, Unavailable
from broker.core.revoking import Order
from broker.core.selector import Selector
from broker.core.task import Budget, TaskState
from broker.tasks import Closed
from broker.tasks.closing import DUE_AT_ONCE
from tests.support.fakes import CALLER
from tests.support.task_desk import Desk, open_desk


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Tasks over a ledger of their own."""
    async with open_desk(tmp_path / "ledger.db") as opened:
        yield opened


async def _close(desk: Desk, state: TaskState) -> Closed:
    return await desk.tasks.close(state.task.id, desk.claims(), "the work is done", CALLER)


async def test_a_task_that_holds_nothing_is_closed_without_a_rule(desk: Desk) -> None:
    """No rule that every verifier would have to carry: an entry says that it ended, when, by whom and why."""
    state = await desk.open()
    closed = await _close(desk, state)
    assert closed.ended is None
    assert (closed.state.closed_because, closed.state.closed_at) == ("closed", desk.world.clock.time)
    assert len(desk.world.revocations.rules) == 0
    (entry,) = await desk.entries("task.closed")
    assert (entry["ref"], entry["by"], entry["reason"]) == (state.task.id, "triage", "the work is done")
    assert await desk.verified() == ()


async def test_closing_ends_every_grant_of_the_tree(desk: Desk) -> None:
    """One rule, in the change that closes: it kills what the task and the tasks below hold, and nothing else."""
    root = await desk.open()
    child = await desk.open(parent=root.task.id)
    beside = await desk.open()
    held = [await desk.grant(state) for state in (root, child)]
    bystander = await desk.grant(beside)
    closed = await _close(desk, root)
    assert closed.ended is not None
    assert closed.ended.rule.selector == Selector(task=root.task.id)
    assert [desk.is_alive(claims) for claims in held] == [False, False]
    assert desk.is_alive(bystander)
    for state in (root, child):
        assert (await desk.state(state)).closed_because == "closed"
    assert (await desk.state(beside)).closed_at is None
    (entry,) = await desk.entries("rule.added")
    assert (entry["closes"], entry["because"], entry["by"]) == (root.task.id, "closed", "triage")
    assert await desk.entries("task.closed") == []
    hits = (await desk.revocation.outcome(closed.ended.rule)).hits
    assert hits is not None
    assert hits.tokens >= 1
    assert await desk.verified() == ()


async def test_the_rule_ends_with_what_the_task_held(desk: Desk) -> None:
    """It is live no longer than the longest grant of the tree, with the margin for skew: rules do not pile up."""
    state = await desk.open()
    await desk.grant(state, seconds=60)
    await desk.grant(await desk.open(), seconds=3000)
    closed = await _close(desk, state)
    assert closed.ended is not None
    rule = desk.world.revocations.rules.get(closed.ended.rule.id)
    assert rule is not None
    assert rule.ends_at is not None
    assert rule.ends_at <= desk.world.clock.time + 60 + 300


async def test_grants_that_are_over_need_no_rule(desk: Desk) -> None:
    """What has expired is dead already."""
    state = await desk.open()
    await desk.grant(state, seconds=60)
    desk.world.clock.time += 61
    assert (await _close(desk, state)).ended is None


async def test_closing_again_changes_nothing(desk: Desk) -> None:
    """It is answered with the task as it was closed; nothing more is recorded."""
    state = await desk.open()
    first = await _close(desk, state)
    size = len(await desk.records.records(limit=1000))
    again = await _close(desk, state)
    assert again == first
    assert len(await desk.records.records(limit=1000)) == size


@pytest.mark.parametrize("held", [False, True])
async def test_two_who_close_at_the_same_time(desk: Desk, held: bool) -> None:
    """The task is closed once: one entry, one rule at most, and all of them are told that it is closed."""
    state = await desk.open()
    claims = await desk.grant(state) if held else None
    results = await asyncio.gather(*(_close(desk, state) for _ in range(8)))
    assert {result.state.closed_because for result in results} == {"closed"}
    rules, quiet = await desk.entries("rule.added"), await desk.entries("task.closed")
    assert (len(rules), len(quiet)) == ((1, 0) if held else (0, 1))
    assert len(desk.world.revocations.rules) == len(rules)
    assert claims is None or not desk.is_alive(claims)
    assert await desk.verified() == ()


async def test_closing_a_child_and_its_parent_at_the_same_time(desk: Desk) -> None:
    """Whoever is first, both are closed, and the parent's budget is whole."""
    root = await desk.open(budget=Budget(tokens=10))
    children = [await desk.open(parent=root.task.id, budget=Budget(tokens=1)) for _ in range(5)]
    await asyncio.gather(*(_close(desk, state) for state in (children[0], root, *children[1:])))
    states = [await desk.state(state) for state in (root, *children)]
    assert all(state.closed_at is not None for state in states)
    assert (states[0].balances["tokens"].used, states[0].balances["tokens"].reserved) == (0, 0)
    assert await desk.verified() == ()


async def test_closing_while_tasks_are_opened_below(desk: Desk) -> None:
    """No task is open below one that is closed: each was opened before and closed with it, or refused."""
    for _ in range(5):
        root = await desk.open()
        before, after = ([desk.open(parent=root.task.id) for _ in range(8)] for _ in range(2))
        results = await asyncio.gather(*before, _close(desk, root), *after, return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        assert all(isinstance(error, BrokerError) and error.code is Code.TASK_NOT_OPEN for error in failures)
        now = desk.world.clock.time
        assert await desk.records.tasks(below=root.task.id, open_at=now) == []
        assert (await desk.state(root)).closed_at is not None


async def test_a_grant_that_gets_in_between_dies_too(desk: Desk) -> None:
    """Between looking at what the task holds and closing it, something is granted: then a rule ends that."""
    state = await desk.open()
    granted: list[Any] = []

    class Between:
        async def commit(self, change: Change) -> Receipt:
            if not granted and any(isinstance(write, CloseTask) for write in change.writes):
                granted.append(await desk.grant(state))
            return await desk.world.ledger.commit(change)

    desk.compose(Between(), desk.records)
    closed = await _close(desk, state)
    assert closed.ended is not None
    assert not desk.is_alive(granted[0])
    assert (await desk.state(state)).closed_because == "closed"


async def test_nothing_is_granted_in_a_closed_task(desk: Desk) -> None:
    """The guard of every grant refuses it, whoever races: each grant either failed or is dead."""
    state = await desk.open()
    grants = [desk.grant(state) for _ in range(10)]
    results = await asyncio.gather(*grants[:5], _close(desk, state), *grants[5:], return_exceptions=True)
    for result in results:
        match result:
            case AccessClaims():
                assert not desk.is_alive(result)
            case BrokerError():
                assert result.code is Code.TASK_NOT_OPEN
            case _:
                assert isinstance(result, Closed | EpochMoved)


async def test_who_may_close(desk: Desk) -> None:
    """The owner, owners above, and whoever may revoke; who only sees it is told what is missing."""
    root = await desk.open()
    worker = desk.handed_on(root)
    mine = await desk.open(worker, parent=root.task.id)
    with pytest.raises(Refused) as refused:
        await desk.tasks.close(root.task.id, worker, "not mine", CALLER)
    assert refused.value.code is Code.INSUFFICIENT_SCOPE
    assert (await desk.tasks.close(mine.task.id, worker, "mine", CALLER)).state.closed_at is not None
    inner = await desk.open(worker, parent=root.task.id)
    assert (await desk.tasks.close(inner.task.id, desk.claims(), "from above", CALLER)).state.closed_at is not None
    operator = desk.claims("alice", scopes=("revocations:write", "tasks:close"))
    assert (await desk.tasks.close(root.task.id, operator, "incident", CALLER)).state.closed_at is not None


async def test_a_token_of_a_task_closes_none_beside_it(desk: Desk) -> None:
    """Its holder owns both, but a token does no more than the work it is for."""
    one, two = await desk.open(), await desk.open()
    with pytest.raises(Refused) as refused:
        await desk.tasks.close(two.task.id, desk.inside(one), "beside", CALLER)
    assert refused.value.code is Code.NOT_FOUND
    assert (await desk.tasks.close(one.task.id, desk.inside(one), "own", CALLER)).state.closed_at is not None


@pytest.mark.parametrize("reason", ["", "two\nlines", "x" * 1001])
async def test_reasons_must_be_readable(desk: Desk, reason: str) -> None:
    """One line that says something."""
    state = await desk.open()
    with pytest.raises(BrokerError) as refused:
        await desk.tasks.close(state.task.id, desk.claims(), reason, CALLER)
    assert refused.value.code is Code.MALFORMED_REQUEST
    assert (await desk.state(state)).closed_at is None


# --- by an operator's rule


async def test_an_operators_rule_for_a_task_closes_it(desk: Desk) -> None:
    """In the change that makes the rule: nothing is granted, opened or heard in the task or below it any more."""
    root = await desk.open()
    child = await desk.open(parent=root.task.id)
    await desk.world.revoke(task=root.task.id)
    for state in (root, child):
        assert (await desk.state(state)).closed_because == "revoked"
        with pytest.raises(BrokerError) as refused:
            await desk.grant(state)
        assert refused.value.code is Code.TASK_NOT_OPEN
    assert (await desk.entries("rule.added"))[0]["closes"] == root.task.id
    assert await desk.verified() == ()


async def test_a_rule_that_names_more_than_the_task_does_not_close_it(desk: Desk) -> None:
    """It ends some of what is in the task; the work goes on."""
    state = await desk.open()
    await desk.world.revoke(task=state.task.id, scope="tickets:read")
    await desk.world.revoke(everything=True)
    assert (await desk.state(state)).closed_at is None


@pytest.mark.parametrize("task", ["task_unknown", "closed"])
async def test_a_rule_for_a_task_that_is_not_open(desk: Desk, task: str) -> None:
    """Revoking comes first: what is not stored, or closed already, is revoked all the same, once more."""
    state = await desk.open()
    await _close(desk, state)
    outcome = await desk.world.revoke(task=state.task.id if task == "closed" else task)
    assert outcome.durable
    assert (await desk.state(state)).closed_because == "closed"
    assert await desk.verified() == ()


# --- without the ledger


class _Breaking:
    """A ledger that cannot be written while ``down``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.down = True

    async def commit(self, change: Change) -> Receipt:
        """Fail, or pass on."""
        if self.down:
            raise Unavailable(Code.LEDGER_UNAVAILABLE, "the disk is full")
        return await self._desk.world.ledger.commit(change)


async def test_closing_acts_without_the_ledger(desk: Desk) -> None:
    """What is alive in the task dies at once; the answer says that it is not durable; it is written later (law 1)."""
    state = await desk.open()
    claims = await desk.grant(state)
    ledger = _Breaking(desk)
    desk.compose(ledger, desk.records)
    closed = await _close(desk, state)
    assert closed.ended is not None
    assert not closed.ended.durable
    assert not desk.is_alive(claims)
    assert (await desk.state(state)).closed_at is None
    again = await _close(desk, state)
    assert again.ended is not None
    assert again.ended.rule.id == closed.ended.rule.id
    assert len(desk.world.revocations.rules) == 1
    ledger.down = False
    assert await desk.revocation.write_pending() == 0
    assert (await desk.state(state)).closed_because == "closed"
    assert await desk.verified() == ()


async def test_a_rule_that_is_written_late_finds_the_task_closed(desk: Desk) -> None:
    """Somebody revoked the task in between: the late rule is written all the same, as it was promised."""
    state = await desk.open()
    await desk.grant(state)
    ledger = _Breaking(desk)
    desk.compose(ledger, desk.records)
    await _close(desk, state)
    await desk.world.revoke(task=state.task.id)
    ledger.down = False
    assert await desk.revocation.write_pending() == 0
    assert len(await desk.entries("rule.added")) == 2
    assert (await desk.state(state)).closed_because == "revoked"
    assert await desk.verified() == ()


async def test_a_task_that_holds_nothing_needs_the_ledger_to_close(desk: Desk) -> None:
    """There is nothing to end at once, so the caller is told to come back."""
    state = await desk.open()
    desk.compose(_Breaking(desk), desk.records)
    with pytest.raises(Unavailable):
        await _close(desk, state)
    assert len(desk.world.revocations.rules) == 0


# --- when their time is over


async def test_tasks_past_their_deadline_are_closed_without_a_rule(desk: Desk) -> None:
    """Nothing outlives the deadline of its task, so there is nothing to revoke."""
    state = await desk.open(ttl=60)
    child = await desk.open(parent=state.task.id)
    await desk.grant(state, seconds=59)
    desk.world.clock.time += 61
    assert await desk.tasks.close_due() == 1
    for each in (state, child):
        assert (await desk.state(each)).closed_because == "deadline"
    assert len(desk.world.revocations.rules) == 0
    assert [entry["by"] for entry in await desk.entries("task.closed")] == ["broker"]
    assert await desk.tasks.close_due() == 0
    assert await desk.verified() == ()


async def test_idle_tasks_are_closed_with_what_they_hold(desk: Desk) -> None:
    """With a rule if something is alive in the tree, without one if not."""
    held, empty = [await desk.open(idle_timeout=60) for _ in range(2)]
    child = await desk.open(parent=held.task.id)
    claims = await desk.grant(child)
    desk.world.clock.time += 61
    assert await desk.tasks.close_due() == 2
    for state in (held, empty, child):
        assert (await desk.state(state)).closed_because == "idle"
    assert not desk.is_alive(claims)
    assert len(desk.world.revocations.rules) == 1
    (entry,) = await desk.entries("rule.added")
    assert (entry["by"], entry["because"]) == ("broker", "idle")
    assert await desk.verified() == ()


@pytest.mark.parametrize("held", [False, True])
async def test_a_heartbeat_that_comes_in_time_wins(desk: Desk, held: bool) -> None:
    """It was taken before the time-out and is only written after it was looked for: the task stays open."""
    state = await desk.open(idle_timeout=60, ttl=3000)
    claims = await desk.grant(state, seconds=2000) if held else None
    world, beaten = desk.world, list[bool]()

    class HeardInBetween:
        async def commit(self, change: Change) -> Receipt:
            if not beaten and any(isinstance(write, CloseTask) for write in change.writes):
                beaten.append(True)
                late = world.clock.time
                world.clock.time -= 2
                await desk.tasks.heartbeat(state.task.id, desk.claims(), CALLER)
                world.clock.time = late
            return await world.ledger.commit(change)

    desk.compose(HeardInBetween(), desk.records)
    world.clock.time += 61
    await desk.tasks.close_due()
    assert beaten
    assert (await desk.state(state)).closed_at is None
    assert claims is None or desk.is_alive(claims)
    assert len(world.revocations.rules) == 0


async def test_what_fails_stops_no_other(desk: Desk) -> None:
    """One task cannot be closed: the others are, it is logged in one line, and it is tried again."""
    states = [await desk.open(ttl=60) for _ in range(5)]
    bad = states[0].task.id

    class Picky:
        fails = True

        async def commit(self, change: Change) -> Receipt:
            if self.fails and any(isinstance(write, CloseTask) and write.task_id == bad for write in change.writes):
                raise Unavailable(Code.LEDGER_UNAVAILABLE, "not this one")
            return await desk.world.ledger.commit(change)

    ledger = Picky()
    desk.compose(ledger, desk.records)
    desk.world.clock.time += 61
    assert await desk.tasks.close_due() == 4
    closed = [(await desk.state(state)).closed_at is not None for state in states]
    assert closed == [False, True, True, True, True]
    assert desk.world.events.names() == ["tasks.not_closed"]
    ledger.fails = False
    assert await desk.tasks.close_due() == 1


async def test_a_ledger_that_is_down_makes_no_pile_of_rules(desk: Desk) -> None:
    """However often the job runs meanwhile: one rule for each idle task, which is written when that works again."""
    states = [await desk.open(idle_timeout=60) for _ in range(3)]
    for state in states:
        await desk.grant(state)
    ledger = _Breaking(desk)
    desk.compose(ledger, desk.records)
    desk.world.clock.time += 61
    for _ in range(5):
        await desk.tasks.close_due()
    assert len(desk.world.revocations.rules) == 3
    ledger.down = False
    assert await desk.revocation.write_pending() == 0
    assert [(await desk.state(state)).closed_because for state in states] == ["idle"] * 3


async def test_many_due_tasks_are_closed_in_rounds(desk: Desk) -> None:
    """More than are closed side by side, in one run."""
    number = DUE_AT_ONCE + 20
    await asyncio.gather(*(desk.open(ttl=60) for _ in range(number)))
    desk.world.clock.time += 61
    assert await desk.tasks.close_due() == number


# --- large trees


async def test_a_tree_of_depth_50_and_width_1000_closes_in_one_change(desk: Desk) -> None:
    """1,000 tasks below each other, 50 deep, with grants in the deepest: one rule, one entry, all of them closed."""
    root = level = await desk.open(budget=Budget(tokens=10_000))
    share = 9_000
    for _ in range(49):
        side = [desk.open(parent=level.task.id, budget=Budget(tokens=1)) for _ in range(20)]
        states = await asyncio.gather(desk.open(parent=level.task.id, budget=Budget(tokens=share)), *side)
        level, share = states[0], share - 100
    await asyncio.gather(*(desk.open(parent=level.task.id, budget=Budget(tokens=1)) for _ in range(20)))
    claims = await desk.grant(level)
    size = (await desk.records.head()).size
    started = time.perf_counter()
    closed = await _close(desk, root)
    assert time.perf_counter() - started < 5
    assert closed.ended is not None
    assert not desk.is_alive(claims)
    assert (await desk.records.head()).size == size + 1
    assert await desk.records.tasks(below=root.task.id, open_at=desk.world.clock.time) == []
    balance = closed.state.balances["tokens"]
    assert (balance.used, balance.reserved) == (0, 0)


def test_only_an_order_that_names_a_task_alone_closes_one() -> None:
    """What an order closes is its selector's task; ``closes`` is the reason."""
    order = Order(selector=Selector(task="t1"), reason="r", by="b", closes="idle")
    assert order.closing() == ("t1", "idle")
    assert Order(selector=Selector(task="t1"), reason="r", by="b").closing() == ("t1", "revoked")
    assert Order(selector=Selector(task="t1", agent="a"), reason="r", by="b").closing() is None
    assert Order(selector=Selector(everything=True), reason="r", by="b").closing() is None
