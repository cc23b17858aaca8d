"""The gate of a backend: bounded, fair between agents and revocations, and shut while the backend is out of order."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from broker.core.circuit import FAILURES
from broker.core.errors import BackendFailed, Code
from broker.core.lease import Ended, LeaseOrder, Taken
from broker.core.secret import Secret
from broker.lease_backends import MAX_WAITING, GatedBackends
from broker.ports import Backend, Backends
from tests.support.virtual_time import VirtualTime

ORDER = LeaseOrder(
    lease="lse_1",
    secret="demo",
    settings={},
    ttl=60,
    ends_by=1_000,
    agent="agent:alpha",
    role="reader",
    task="task_1",
    task_ends=2_000,
    on_behalf_of="team:orders",
)


@dataclass
class Controlled:
    """A backend whose calls wait until they are let go, and fail on demand; it counts what runs at once."""

    failure: BackendFailed | None = None
    refuses_to_end: BackendFailed | None = None
    held: bool = False
    revocable: bool = True
    go: asyncio.Event = field(default_factory=asyncio.Event)
    missed: asyncio.Event | None = None
    running: dict[str, int] = field(default_factory=lambda: {"take": 0, "revoke": 0})
    most: int = 0
    asked: int = 0
    closed: int = 0

    async def prepare(self, order: LeaseOrder) -> Mapping[str, str]:
        return {"lease": order.lease}

    async def take(self, order: LeaseOrder, handle: Mapping[str, str]) -> Taken:
        await self._work("take", self.failure)
        return Taken(data=Secret("{}"), handle=handle, lease_seconds=60, renewable=True, revocable=True)

    async def renew(self, handle: Mapping[str, str], seconds: int) -> int:
        await self._work("take", self.failure)
        return seconds

    async def revoke(self, handle: Mapping[str, str]) -> Ended:
        await self._work("revoke", self.failure or self.refuses_to_end)
        return Ended(revoked=self.revocable)

    async def close(self) -> None:
        self.closed += 1

    def time_out(self, *, still_held: bool = False) -> None:
        """Let those that wait now find that it took too long; do what is asked later at once, or hold that, too."""
        self.missed, self.go, self.held = self.go, asyncio.Event(), still_held
        self.missed.set()

    async def _work(self, kind: str, failure: BackendFailed | None) -> None:
        self.asked += 1
        self.running[kind] += 1
        self.most = max(self.most, sum(self.running.values()))
        try:
            if self.held:
                moment = self.go
                await moment.wait()
                if moment is self.missed:
                    raise _down(uncertain=True)
            if failure is not None:
                raise failure
        finally:
            self.running[kind] -= 1


def _down(*, uncertain: bool = False) -> BackendFailed:
    return BackendFailed(Code.BACKEND_UNAVAILABLE, "down", uncertain=uncertain, retry_after=5)


@dataclass
class Gate:
    """A controlled backend behind its gate, and the time."""

    inner: Controlled
    time: VirtualTime
    backends: GatedBackends

    @property
    def backend(self) -> Backend:
        return self.backends.of("vault")

    @property
    def state(self) -> str:
        return self.backends.states()["vault"]

    async def take(self) -> Taken:
        return await self.backend.take(ORDER, {})

    async def fail(self, times: int) -> None:
        """Have so many calls fail."""
        self.inner.failure = _down()
        for _ in range(times):
            with pytest.raises(BackendFailed):
                await self.take()

    def later(self, seconds: float) -> None:
        """Let time go on."""
        self.time.advance(seconds)


def _gate(concurrency: int = 8) -> Gate:
    inner, time = Controlled(), VirtualTime(spread=0.0)
    backends = GatedBackends({"vault": inner}, concurrency={"vault": concurrency}, timing=time.timing())
    return Gate(inner, time, backends)


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_backends_have_names() -> None:
    """An unknown one is refused; nothing is guessed."""
    gate = _gate()
    port: Backends = gate.backends
    assert gate.backends.names() == {"vault"}
    assert port.states() == {"vault": "closed"}
    with pytest.raises(BackendFailed) as refused:
        port.of("vault/other")
    assert (refused.value.code, refused.value.uncertain) == (Code.BACKEND_REFUSED, False)


async def test_what_the_backend_says_comes_through() -> None:
    """Results and failures are the backend's own."""
    gate = _gate()
    assert await gate.backend.prepare(ORDER) == {"lease": "lse_1"}
    assert (await gate.take()).lease_seconds == 60
    assert await gate.backend.renew({}, 7) == 7
    assert (await gate.backend.revoke({})).revoked
    gate.inner.failure = _down(uncertain=True)
    with pytest.raises(BackendFailed) as failed:
        await gate.take()
    assert failed.value is gate.inner.failure


@pytest.mark.parametrize(("concurrency", "takes", "revocations"), [(8, 4, 4), (5, 2, 3), (2, 1, 1), (1, 1, 1)])
async def test_each_lane_has_its_half(concurrency: int, takes: int, revocations: int) -> None:
    """However many of the one wait, the other has its places at once; and together they are never more than allowed."""
    gate = _gate(concurrency)
    gate.inner.held = True
    flood = [asyncio.create_task(gate.backend.revoke({})) for _ in range(100)]
    await _settle()
    assert gate.inner.running == {"take": 0, "revoke": revocations}
    agents = [asyncio.create_task(gate.take()) for _ in range(takes + 3)]
    await _settle()
    assert gate.inner.running == {"take": takes, "revoke": revocations}
    gate.inner.go.set()
    await asyncio.gather(*flood, *agents)
    assert gate.inner.most == takes + revocations
    assert gate.inner.asked == 100 + takes + 3


async def test_agents_do_not_pile_up() -> None:
    """When too many wait, the next one is told to come back, and nothing was done for it."""
    gate = _gate(2)
    gate.inner.held = True
    agents = [asyncio.create_task(gate.take()) for _ in range(1 + MAX_WAITING)]
    await _settle()
    with pytest.raises(BackendFailed) as refused:
        await gate.take()
    assert (refused.value.code, refused.value.uncertain, refused.value.retry_after) == (
        Code.BACKEND_UNAVAILABLE,
        False,
        1,
    )
    gate.inner.go.set()
    await asyncio.gather(*agents)
    assert gate.state == "closed"
    await gate.take()


async def test_a_caller_that_gives_up_leaves_its_place() -> None:
    """Neither those who wait nor those who run keep a place when they are cancelled."""
    gate = _gate(2)
    gate.inner.held = True
    agents = [asyncio.create_task(gate.take()) for _ in range(5)]
    await _settle()
    for agent in agents:
        agent.cancel()
    await asyncio.gather(*agents, return_exceptions=True)
    gate.inner.held = False
    await gate.take()
    assert gate.inner.running == {"take": 0, "revoke": 0}


async def test_a_backend_out_of_order_is_left_alone() -> None:
    """After five failures nobody waits for a time-out: they are told at once, with when to come back."""
    gate = _gate()
    await gate.fail(FAILURES)
    assert gate.state == "open"
    asked = gate.inner.asked
    with pytest.raises(BackendFailed) as refused:
        await gate.take()
    assert (refused.value.code, refused.value.uncertain) == (Code.BACKEND_UNAVAILABLE, False)
    assert refused.value.retry_after == 1
    assert gate.inner.asked == asked


async def test_one_call_tries_whether_it_is_back() -> None:
    """After the pause one goes ahead, the others still wait outside; its success lets all in."""
    gate = _gate()
    await gate.fail(FAILURES)
    gate.later(1.0)
    assert gate.state == "half_open"
    gate.inner.failure, gate.inner.held = None, True
    trial = asyncio.create_task(gate.take())
    await _settle()
    with pytest.raises(BackendFailed) as refused:
        await gate.take()
    assert refused.value.retry_after == 1
    gate.inner.go.set()
    await trial
    assert gate.state == "closed"
    await gate.take()


async def test_pauses_grow_while_it_stays_away() -> None:
    """Each trial that fails makes the next pause longer, up to a minute."""
    gate = _gate()
    await gate.fail(FAILURES)
    waits = []
    for _ in range(8):
        with pytest.raises(BackendFailed) as refused:
            await gate.take()
        waits.append(refused.value.retry_after)
        gate.later(float(refused.value.retry_after or 0))
        await gate.fail(1)
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


async def test_a_trial_that_is_cancelled_is_tried_again() -> None:
    """An agent that hangs up during the trial does not shut the gate for ever."""
    gate = _gate()
    await gate.fail(FAILURES)
    gate.later(1.0)
    gate.inner.held = True
    trial = asyncio.create_task(gate.take())
    await _settle()
    trial.cancel()
    await asyncio.gather(trial, return_exceptions=True)
    gate.inner.failure, gate.inner.held = None, False
    await gate.take()
    assert gate.state == "closed"


async def test_those_who_waited_are_told_when_the_circuit_opens() -> None:
    """They do not each wait for a time-out of their own."""
    gate = _gate(2)
    gate.inner.failure, gate.inner.held = _down(), True
    agents = [asyncio.create_task(gate.take()) for _ in range(FAILURES + 5)]
    await _settle()
    gate.inner.go.set()
    ends = await asyncio.gather(*agents, return_exceptions=True)
    assert all(isinstance(end, BackendFailed) for end in ends)
    assert gate.inner.asked == FAILURES


async def test_one_slow_moment_costs_the_calls_of_that_moment_and_no_other() -> None:
    """All that are under way fail with it; the hundreds that come after are made, and answered."""
    gate = _gate(16)
    gate.inner.held = True
    agents = [asyncio.create_task(gate.take()) for _ in range(100)]
    await _settle()
    gate.later(10.0)
    gate.inner.time_out()
    ends = await asyncio.gather(*agents, return_exceptions=True)
    assert [isinstance(end, BackendFailed) for end in ends] == [True] * 8 + [False] * 92
    assert all(end.retry_after for end in ends if isinstance(end, BackendFailed))
    assert gate.state == "closed"
    for _ in range(500):
        await gate.take()


async def test_a_backend_that_stays_slow_is_left_alone_after_the_second_time() -> None:
    """So at most two rounds of calls wait for a time-out; those that wait in the queue are told at once."""
    gate = _gate(16)
    gate.inner.held = True
    agents = [asyncio.create_task(gate.take()) for _ in range(100)]
    for state in ("closed", "open"):
        await _settle()
        gate.later(10.0)
        gate.inner.time_out(still_held=True)
        await _settle()
        assert gate.state == state
    ends = await asyncio.gather(*agents, return_exceptions=True)
    assert all(isinstance(end, BackendFailed) and end.retry_after for end in ends)
    assert gate.inner.asked == 16


async def test_a_refusal_is_an_answer() -> None:
    """A backend that says no is there: it never opens the circuit."""
    gate = _gate()
    for _ in range(3):
        await gate.fail(FAILURES - 1)
        gate.inner.failure = BackendFailed(Code.BACKEND_REFUSED, "no")
        with pytest.raises(BackendFailed):
            await gate.take()
    assert gate.state == "closed"


async def test_what_needs_no_answer_proves_nothing() -> None:
    """Preparing, which may ask nobody, does not hide that every take fails."""
    gate = _gate()
    for _ in range(FAILURES):
        await gate.backend.prepare(ORDER)
        await gate.fail(1)
    assert gate.state == "open"
    gate.later(1.0)
    await gate.backend.prepare(ORDER)
    assert gate.state == "half_open"


async def test_secrets_that_cannot_be_ended_do_not_stop_others_from_being_made() -> None:
    """Revocations that fail again and again are paused, but agents still get their secrets."""
    gate = _gate()
    gate.inner.refuses_to_end = _down()
    for _ in range(FAILURES):
        with pytest.raises(BackendFailed):
            await gate.backend.revoke({})
    assert gate.state == "open"
    assert (await gate.take()).renewable


async def test_an_end_that_asked_nobody_does_not_close_the_circuit() -> None:
    """That a static secret cannot be ended is no sign of life."""
    gate = _gate()
    gate.inner.refuses_to_end = _down()
    for _ in range(FAILURES):
        with pytest.raises(BackendFailed):
            await gate.backend.revoke({})
    gate.later(1.0)
    gate.inner.refuses_to_end, gate.inner.revocable = None, False
    await gate.backend.revoke({})
    assert gate.state == "half_open"
    gate.inner.revocable = True
    await gate.backend.revoke({})
    assert gate.state == "closed"


async def test_a_defect_of_a_backend_keeps_no_place() -> None:
    """What is no ``BackendFailed`` goes through, and the gate works on."""
    gate = _gate(2)
    gate.inner.failure = ZeroDivisionError()  # type: ignore[assignment]
    for _ in range(FAILURES + 1):
        with pytest.raises(ZeroDivisionError):
            await gate.take()
    assert gate.state == "closed"


async def test_closing_closes_all() -> None:
    """One that cannot be closed keeps no other from it; and nothing goes wrong the second time."""

    class Stubborn(Controlled):
        async def close(self) -> None:
            await super().close()
            raise _down()

    time = VirtualTime()
    members = {"a": Controlled(), "b": Stubborn(), "c": Controlled()}
    backends = GatedBackends(members, concurrency=dict.fromkeys(members, 2), timing=time.timing())
    for turn in (1, 2):
        with pytest.raises(BackendFailed):
            await backends.close()
        assert [each.closed for each in members.values()] == [turn] * 3
