"""What the broker itself puts on record."""

from __future__ import annotations

import pytest

from broker.auditing import STEP_SECONDS, Auditing
from broker.core.entry import Kind
from broker.core.errors import Code
from broker.core.tally import Tally
from broker.ports import Revocations
from tests.support.fakes import NOW, FakeClock, Fault, MemoryLedger, RecordingEvents, cancelled_after


class Audit:
    """The use case over a ledger in memory, and a monotonic clock beside the wall clock."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.passed = 1000.0
        self.events = RecordingEvents()
        self.strangers = Tally()
        self.ledger = MemoryLedger(Revocations())
        self.use_case = Auditing(ledger=self.ledger, clock=self.clock, events=self.events, strangers=self.strangers)

    async def look(self, seconds: float = 5.0, step: float = 0.0) -> None:
        """Let time pass, set the wall clock by ``step``, and look at it."""
        self.passed += seconds
        self.clock.time += seconds + step
        await self.use_case.watch_clock(self.passed)

    def steps(self) -> list[int]:
        """Return the recorded steps in milliseconds."""
        return [members["milliseconds"] for members in self.ledger.members(Kind.CLOCK_STEPPED)]


@pytest.fixture
def audit() -> Audit:
    """An audit of its own for each test."""
    return Audit()


async def test_a_start_is_recorded(audit: Audit) -> None:
    """With the version that started."""
    await audit.use_case.started("1.2.3")
    (members,) = audit.ledger.members(Kind.BROKER_STARTED)
    assert (members["version"], members["at"]) == ("1.2.3", int(NOW * 1000))


async def test_strangers_are_recorded_in_aggregate(audit: Audit) -> None:
    """However many, one entry: how often for which reason, since when."""
    for _ in range(10_000):
        audit.strangers.add(Code.ASSERTION_INVALID.value)
    audit.strangers.add(Code.PROOF_INVALID.value)
    audit.clock.time += 60
    await audit.use_case.record_strangers()
    (members,) = audit.ledger.members(Kind.STRANGERS_REFUSED)
    assert members["counts"] == {"assertion_invalid": 10_000, "proof_invalid": 1}
    assert (members["since"], members["at"]) == (int(NOW * 1000), int((NOW + 60) * 1000))


async def test_periods_follow_each_other(audit: Audit) -> None:
    """Each entry begins where the last one ended; a quiet period has none."""
    audit.strangers.add("x")
    audit.clock.time += 60
    await audit.use_case.record_strangers()
    audit.clock.time += 60
    await audit.use_case.record_strangers()
    audit.strangers.add("x")
    audit.clock.time += 60
    await audit.use_case.record_strangers()
    first, second = audit.ledger.members(Kind.STRANGERS_REFUSED)
    assert second["since"] == first["at"]
    assert second["counts"] == {"x": 1}


async def test_counts_survive_a_ledger_that_is_down(audit: Audit) -> None:
    """They are recorded later, with what came meanwhile, from the same beginning."""
    audit.strangers.add("x")
    audit.ledger.down = True
    audit.clock.time += 60
    await audit.use_case.record_strangers()
    audit.strangers.add("x")
    audit.ledger.down = False
    audit.clock.time += 60
    await audit.use_case.record_strangers()
    (members,) = audit.ledger.members(Kind.STRANGERS_REFUSED)
    assert (members["counts"], members["since"]) == ({"x": 2}, int(NOW * 1000))


@pytest.mark.parametrize("turns", range(1, 6))
async def test_a_cancelled_record_loses_no_count(audit: Audit, turns: int) -> None:
    """Stopping in the middle: what was taken is in the ledger."""
    audit.strangers.add("x")
    await cancelled_after(audit.use_case.record_strangers(), turns)
    await audit.use_case.record_strangers()
    assert [members["counts"] for members in audit.ledger.members(Kind.STRANGERS_REFUSED)] == [{"x": 1}]


@pytest.mark.parametrize("step", [3600.0, -3600.0, STEP_SECONDS + 0.1, -STEP_SECONDS - 0.1])
async def test_a_step_of_the_clock_is_recorded_once(audit: Audit, step: float) -> None:
    """Forwards or backwards, with its size, and the operator is told."""
    await audit.look()
    await audit.look()
    await audit.look(step=step)
    await audit.look()
    assert audit.steps() == [pytest.approx(step * 1000, abs=1)]
    assert audit.events.names() == ["clock.stepped"]


async def test_a_clock_that_is_slewed_is_not_stepped(audit: Audit) -> None:
    """Small corrections, a late look and a stalled process are no steps."""
    await audit.look()
    for seconds, step in ((5.0, 0.3), (600.0, -1.0), (0.0, 0.0), (5.0, STEP_SECONDS - 0.1)):
        await audit.look(seconds, step)
    assert audit.steps() == []
    assert audit.events.names() == []


async def test_a_step_while_the_ledger_is_down_is_recorded_later(audit: Audit) -> None:
    """It is found again until it is on record, and then once."""
    await audit.look()
    audit.ledger.faults.extend([Fault.NOT_APPLIED, Fault.NOT_APPLIED])
    await audit.look(step=100)
    await audit.look()
    assert audit.steps() == []
    await audit.look()
    await audit.look()
    assert audit.steps() == [pytest.approx(100_000, abs=1)]


async def test_the_first_look_compares_with_nothing(audit: Audit) -> None:
    """A process that just started has seen no step."""
    await audit.look(step=10**6)
    assert audit.steps() == []
