from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.http.pressure import (
    ALONE_ROUNDS,
    LONGEST_PAUSE,
    REFUSALS_PER_SECOND,
    RETRY_SECONDS,
    SAMPLES,
    Lane,
    Pressure,
)
from broker.http.urgency import Urgency
from broker.metrics import Metrics

LATE, IN_TIME = 0.04, 0.0005
LONG = 20
"""Rounds of adaptation after which limits stay as they are."""


def _pressure(spread: float = 0.0) -> Pressure:
    return Pressure(Metrics(), lambda: spread)


def _sample(pressure: Pressure, lag: float, rounds: int = 1) -> None:
    for _ in range(rounds * SAMPLES):
        pressure.sampled(lag)


async def _sample_with_others(pressure: Pressure, lag: float) -> None:
    """As long as needed, somebody revoking meanwhile."""
    for _ in range(LONG):
        await _filled(pressure.lanes[Urgency.REVOKING], 1)
        _sample(pressure, lag)


async def _filled(lane: Lane, count: int) -> None:
    for _ in range(count):
        assert await lane.enter()


@asynccontextmanager
async def _one_waits(lane: Lane) -> AsyncIterator[asyncio.Task[bool]]:
    """Let one more ask for a place, until it waits."""
    task = asyncio.ensure_future(lane.enter())
    await asyncio.sleep(0)
    assert not task.done()
    yield task
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_issuing_is_limited_before_telling_and_revoking_never() -> None:
    """A loop that is late limits what issues; one that is very late also what tells; revoking finds room always."""
    pressure = _pressure()
    lanes = pressure.lanes
    for urgency in Urgency:
        if urgency is not Urgency.SIGNING_IN:
            await _filled(lanes[urgency], 500)
    await _sample_with_others(pressure, LATE)
    assert [lanes[urgency].has_room for urgency in (Urgency.ISSUING, Urgency.TELLING)] == [False, True]
    await _sample_with_others(pressure, 10 * LATE)
    assert not lanes[Urgency.TELLING].has_room
    assert lanes[Urgency.REVOKING].has_room
    assert (lanes[Urgency.ISSUING].limit, lanes[Urgency.TELLING].limit) == (16, 64)  # however late: never nothing


async def test_issuing_gives_way_further_while_others_are_there() -> None:
    """Who is alone is let in so far that batches are full; fewer are when others come, until some time later."""
    pressure = _pressure()
    lane = pressure.lanes[Urgency.ISSUING]
    await _filled(lane, 500)
    _sample(pressure, LATE, rounds=LONG)
    assert lane.limit == 64
    await _filled(pressure.lanes[Urgency.TELLING], 1)
    _sample(pressure, LATE, rounds=ALONE_ROUNDS // 2)
    assert lane.limit == 16
    for _ in range(500 - 16):
        lane.leave()
    async with _one_waits(lane) as task:
        _sample(pressure, LATE, rounds=ALONE_ROUNDS)
        assert await task


async def test_limits_go_when_the_loop_is_in_time_again() -> None:
    """What was limited is free again some time after the load has gone."""
    pressure = _pressure()
    lane = pressure.lanes[Urgency.ISSUING]
    await _filled(lane, 500)
    _sample(pressure, LATE, rounds=20)
    _sample(pressure, IN_TIME, rounds=200)
    assert lane.limit == lane.most


async def test_requests_that_only_wait_are_not_limited() -> None:
    """A slow backend keeps many requests under way, but the loop in time: more are let in."""
    pressure = _pressure()
    lane = pressure.lanes[Urgency.ISSUING]
    await _filled(lane, 2000)
    _sample(pressure, IN_TIME, rounds=20)
    assert lane.has_room


def test_one_late_turn_says_nothing() -> None:
    """Fewer than half of the samples may be late, as they are on a busy machine, without any effect."""
    pressure = _pressure()
    for number in range(10 * SAMPLES):
        pressure.sampled(LATE if number % SAMPLES < SAMPLES // 2 else IN_TIME)
    assert pressure.lanes[Urgency.ISSUING].limit == pressure.lanes[Urgency.ISSUING].most


async def test_a_place_that_is_given_back_goes_to_whoever_waits_longest() -> None:
    """Bursts are served in their order."""
    lane = Lane(target=1.0, least=1, most=1, patience=60)
    await _filled(lane, 1)
    async with _one_waits(lane) as first, _one_waits(lane) as second:
        lane.leave()
        assert await first
        assert not second.done()
        lane.leave()
        assert await second
        assert lane.under_way == 1


async def test_who_waits_in_vain_leaves_no_place_behind() -> None:
    """After its patience a request is refused, and the next place goes to somebody else."""
    lane = Lane(target=1.0, least=1, most=1, patience=0)
    await _filled(lane, 1)
    assert not await lane.enter()
    lane.leave()
    assert lane.under_way == 0
    assert await lane.enter()


async def test_who_is_cancelled_keeps_no_place() -> None:
    """Neither a request that was cancelled while it waited, nor one that got its place in that very moment."""
    lane = Lane(target=1.0, least=1, most=1, patience=60)
    await _filled(lane, 1)
    async with _one_waits(lane):
        pass
    async with _one_waits(lane):
        lane.leave()  # the place is given, and the task cancelled before it hears of that
    assert lane.under_way == 0


async def test_so_many_may_wait_and_no_more() -> None:
    """What waits is bounded (law 10): one more is refused at once."""
    lane = Lane(target=1.0, least=1, most=1, patience=60)
    await _filled(lane, 1)
    waiting = [asyncio.ensure_future(lane.enter()) for _ in range(256)]
    await asyncio.sleep(0)
    assert await lane.enter() is False
    for _ in waiting:
        lane.leave()
    assert all(await asyncio.gather(*waiting))


async def test_growing_limits_let_those_in_who_wait() -> None:
    """Who waits need not wait for somebody to leave when the limit itself grows."""
    lane = Lane(target=1.0, least=1, most=8, patience=60)
    await _filled(lane, 8)
    lane.adapt(2.0)
    for _ in range(4):
        lane.leave()
    async with _one_waits(lane) as task:
        lane.adapt(0.0)
        assert await task


@given(
    st.lists(st.tuples(st.sampled_from(["enter", "leave", "late", "in time"]), st.floats(0, 1)), max_size=80),
)
def test_a_lane_is_never_above_its_limit_when_it_lets_in(steps: list[tuple[str, float]]) -> None:
    """Whatever comes in whatever order: who is let in found room, and counts never go wrong."""
    asyncio.run(_walk(steps))


async def _walk(steps: list[tuple[str, float]]) -> None:
    lane, inside = Lane(target=0.01, least=2, most=6, patience=0), 0
    for step, lag in steps:
        if step == "enter":
            had_room = lane.has_room
            entered = await lane.enter()
            assert entered == had_room
            inside += entered
        elif step == "leave" and inside:
            lane.leave()
            inside -= 1
        elif step in {"late", "in time"}:
            lane.adapt(0.02 + lag if step == "late" else 0.0)
        assert lane.under_way == inside
        assert 2 <= lane.limit <= 6


def test_refusals_are_paced() -> None:
    """Refusals that were made at one moment are given one after another, none held back for longer than bound."""
    pressure = _pressure()
    pauses = [pressure.pause(100.0) for _ in range(2 * REFUSALS_PER_SECOND)]
    assert pauses[:3] == pytest.approx([1 / REFUSALS_PER_SECOND, 2 / REFUSALS_PER_SECOND, 3 / REFUSALS_PER_SECOND])
    assert max(pauses) == LONGEST_PAUSE
    assert pressure.pause(200.0) == pytest.approx(1 / REFUSALS_PER_SECOND)


@pytest.mark.parametrize(("spread", "seconds"), [(0.0, 1), (0.5, 3), (0.999, RETRY_SECONDS)])
def test_who_is_turned_away_is_told_when_to_come_back(spread: float, seconds: int) -> None:
    """Not all at once."""
    pressure = _pressure(spread)
    assert pressure.turned_away(Urgency.ISSUING) == seconds


async def test_the_lag_of_a_busy_loop_is_found() -> None:
    """A loop that has too much to do in each turn is found late by its own watch."""
    pressure = _pressure()
    await _filled(pressure.lanes[Urgency.ISSUING], 500)
    watching = asyncio.ensure_future(pressure.watch())
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(30):
        while pressure.lanes[Urgency.ISSUING].has_room:
            until = loop.time() + 0.02
            while loop.time() < until:
                pass
            await asyncio.sleep(0)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
