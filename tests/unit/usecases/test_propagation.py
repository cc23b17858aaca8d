"""Following rules, and taking acknowledgements: when the store fails, when others are slow, when there are too many."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from broker.core.errors import Code, Malformed, Refused, Unavailable
from broker.core.marks import mark_of
from broker.core.propagation import Present, Propagation, Replica, Unknown
from broker.core.rules import Rule
from broker.core.selector import Selector
from broker.ledger.store import SqlLedger
from broker.ports import Acknowledged, Left, Revocations
from broker.propagation import Acknowledging, Limits, OwnReplica, Propagations
from broker.propagation.conductor import MAX_FOLLOWED, RECORD_SECONDS
from broker.propagation.own_replica import TELL_SECONDS
from tests.support.fakes import RecordingEvents
from tests.support.ledgers import Bench, opened
from tests.support.virtual_time import VirtualTime

KEY = b"k" * 32
PATIENCE = 30.0
ALPHA = Selector(agent="alpha")


@dataclass
class Meter:
    """Keeps what was measured."""

    acks: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    shown: list[tuple[Present, int]] = field(default_factory=list)

    def acknowledged(self, outcome: str) -> None:
        """Count."""
        self.acks[outcome] += 1

    def propagated(self, seconds: float) -> None:
        """Keep."""
        self.seconds.append(seconds)

    def present_are(self, present: Present, epoch: int) -> None:
        """Keep."""
        self.shown.append((present, epoch))


class Store:
    """The presence of a real ledger, which fails or is slow when it is told to, and keeps what it was given at once."""

    def __init__(self, ledger: SqlLedger) -> None:
        self._ledger = ledger
        self.broken = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.seen = asyncio.Event()
        """Cleared, what was read comes back later; ``held`` says that it does."""
        self.seen.set()
        self.held = False
        self.written: list[Sequence[Acknowledged | Left]] = []

    def _require(self) -> None:
        if self.broken:
            raise Unavailable(Code.LEDGER_UNAVAILABLE, "the disk is gone")

    async def heard(self, told: Sequence[Acknowledged | Left]) -> None:
        """Write."""
        await self.gate.wait()
        self._require()
        self.written.append(told)
        await self._ledger.heard(told)

    async def tell(self, replica: Replica) -> None:
        """Write."""
        self._require()
        await self._ledger.tell(replica)

    async def leave(self, replica_id: str) -> None:
        """Write."""
        self._require()
        await self._ledger.leave(replica_id)

    async def present(self) -> Present:
        """Read."""
        await self.gate.wait()
        self._require()
        present = await self._ledger.present()
        self.held = not self.seen.is_set()
        await self.seen.wait()
        return present

    async def moment(self) -> float:
        """Read."""
        self._require()
        return await self._ledger.moment()

    async def forget_silent(self, since: float) -> int:
        """Write."""
        self._require()
        return await self._ledger.forget_silent(since)


class Process:
    """The parts of one broker process that this is about."""

    def __init__(self, bench: Bench, name: str = "local", bound: float = 0.0, rules: Revocations | None = None) -> None:
        """``bound`` is for how long the process may answer from older rules; ``rules`` are its own, if it has any."""
        self.bench = bench
        self.rules = bench.revocations if rules is None else rules
        self.time = VirtualTime()
        self.store, self.meter, self.events = Store(bench.ledger), Meter(), RecordingEvents()
        timing = self.time.timing()

        def now() -> Replica:
            epoch = self.rules.rules.epoch
            return Replica(id=name, host="h", pid=1, version="1", policy="p", epoch=epoch, max_staleness=bound)

        self.own = OwnReplica(self.store, now, elapsed=timing.elapsed, events=self.events)
        self.propagations = Propagations(
            presence=self.store,
            revocations=self.rules,
            ledger=bench.ledger,
            own=self.own,
            timing=timing,
            meter=self.meter,
            events=self.events,
        )
        self.acks = self.acknowledging()

    def acknowledging(self, *, each: int = 2000, most: int = 20_000) -> Acknowledging:
        """Return a taker of acknowledgements with limits."""
        return Acknowledging(
            self.store,
            marks_key=KEY,
            limits=Limits(each=each, most=most, seconds=900.0),
            timing=self.time.timing(),
            meter=self.meter,
            events=self.events,
            written=self.propagations.news,
        )

    async def revoke(self) -> Rule:
        """Make a rule here."""
        rule = await self.bench.revoke(ALPHA)
        self.propagations.made(rule)
        return rule

    async def recorded(self) -> list[dict[str, Any]]:
        """Return what the ledger holds of how far rules have got."""
        records = await self.bench.ledger.records(limit=1000)
        return [dict(each.members) for each in records if each.members["kind"] == "rule.propagated"]

    async def close(self) -> None:
        """End as a broker does."""
        await self.acks.close()
        await self.propagations.close()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """Return an open ledger."""
    async with opened(tmp_path / "ledger.db") as made:
        yield made


@pytest.fixture
async def process(bench: Bench) -> AsyncIterator[Process]:
    """Return the one process on it."""
    made = Process(bench)
    yield made
    made.store.broken = False
    made.store.gate.set()
    await made.close()


def ack(name: str, epoch: int = 0, agent: str = "gateway", max_age: float = 600.0) -> tuple[Acknowledged, str]:
    """Return an acknowledgement with its mark."""
    return Acknowledged(agent, name, epoch, max_age), mark_of(KEY, epoch)


async def until(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + PATIENCE
    for _ in range(10**6):
        if holds():
            return
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


async def test_what_nobody_applies_in_a_minute_is_recorded_so(process: Process) -> None:
    """Once; who applies it later is told of all the same."""
    await process.bench.ledger.heard([ack("slow")[0]])
    rule = await process.revoke()
    await until(lambda: process.propagations._followed[1].behind is not None)
    process.time.advance(RECORD_SECONDS)
    await until(lambda: not process.propagations._followed)
    await process.propagations._background.finish()
    (entry,) = await process.recorded()
    assert (entry["applied"], entry["waiting_for"], entry["verifiers_applied"]) == (False, ["gateway#slow"], 0)
    assert process.meter.seconds == []
    await process.bench.ledger.heard([ack("slow", 1)[0]])
    seen = await process.propagations.awaited(rule, PATIENCE, "operator")
    assert isinstance(seen, Propagation)
    assert (seen.applied, seen.verifiers_applied) == (True, 1)
    assert len(await process.recorded()) == 1


async def test_replicas_of_one_database_tell_each_other(bench: Bench) -> None:
    """A rule is applied when the other one has caught up and said so; one that leaves is nobody."""
    here, there = Process(bench, "rep_a", 1.0), Process(bench, "rep_b", 1.0, Revocations())
    await asyncio.gather(here.own.join(), there.own.join())
    rule = await here.revoke()
    early = await here.propagations.of(rule)
    assert isinstance(early, Propagation)
    assert (early.applied, early.replicas, early.replicas_applied, early.waiting_for) == (False, 2, 1, ("rep_b",))
    waiting = asyncio.create_task(here.propagations.awaited(rule, PATIENCE, "operator"))
    there.rules.rules.add(rule)
    await there.propagations.step()
    seen = await waiting
    assert isinstance(seen, Propagation)
    assert (seen.applied, seen.replicas_applied, seen.waiting_for) == (True, 2, ())
    await here.propagations._background.finish()
    (entry,) = await here.recorded()
    assert (entry["replicas"], entry["verifiers"]) == (2, 0)
    await there.close()
    assert [each.id for each in (await here.propagations.present()).replicas] == ["rep_a"]
    await here.close()


async def test_a_replica_that_is_cut_off_refuses_by_itself(bench: Bench) -> None:
    """After its own bound, counted from when the rule was heard of."""
    here, gone = Process(bench, "rep_a", 1.0), Process(bench, "rep_b", 1.0, Revocations())
    await asyncio.gather(here.own.join(), gone.own.join())
    rule = await here.revoke()
    here.time.advance(2.5)
    seen = await here.propagations.of(rule)
    assert isinstance(seen, Propagation)
    assert (seen.applied, seen.refusing) == (True, ("rep_b",))
    await here.close()


async def test_a_replica_tells_when_it_changes_and_now_and_then(bench: Bench) -> None:
    """Not each time that it looks."""
    process = Process(bench, "rep_a", 1.0)
    process.store.broken = True
    await process.own.join()
    assert process.events.logged[-1][1] == "replica.not_told"
    process.store.broken = False
    await process.own.step()
    (told,) = (await bench.ledger.present()).replicas
    process.store.broken = True  # nothing is written now, or it would be heard of
    await process.own.step()
    process.time.advance(TELL_SECONDS)
    with pytest.raises(Unavailable):
        await process.own.step()
    process.store.broken = False
    await bench.revoke(ALPHA)
    await process.own.step()
    assert (told.epoch, (await bench.ledger.present()).replicas[0].epoch) == (0, 1)
    await process.close()
    assert (await bench.ledger.present()).replicas == []


async def test_the_one_replica_of_a_file_writes_nothing_of_itself(process: Process) -> None:
    """It is known all the same."""
    await process.propagations.step()
    assert (await process.bench.ledger.present()).replicas == []
    await process.propagations.measure()
    assert [each.id for each in process.meter.shown[0][0].replicas] == ["local"]


async def test_when_presence_cannot_be_read_the_answer_says_so(process: Process) -> None:
    """Nobody is called to have applied it; once it can be read, it goes on."""
    process.store.broken = True
    rule = await process.revoke()
    seen = await process.propagations.of(rule)
    assert isinstance(seen, Unknown)
    assert "the disk is gone" in seen.reason
    assert isinstance(await process.propagations.awaited(rule, 0.05, "operator"), Unknown)
    assert isinstance(await process.propagations.ahead(), Unknown)
    process.store.broken = False
    seen = await process.propagations.awaited(rule, PATIENCE, "operator")
    assert isinstance(seen, Propagation)
    assert seen.applied


async def test_an_answer_does_not_wait_for_a_store_that_hangs(process: Process) -> None:
    """A revocation is answered soon, whatever it says of others."""
    process.store.gate.clear()
    seen = await asyncio.wait_for(process.propagations.of(await process.revoke()), PATIENCE)
    assert isinstance(seen, Unknown)
    assert "not read in time" in seen.reason


async def test_where_too_many_wait_one_more_is_answered_at_once(process: Process) -> None:
    """Revoking is never refused for that."""
    await process.bench.ledger.heard([ack("slow")[0]])
    rule = await process.revoke()
    waiting = [asyncio.create_task(process.propagations.awaited(rule, PATIENCE, "ann")) for _ in range(16)]
    await until(lambda: process.propagations._followed[1].waiting == 16)
    seen = await asyncio.wait_for(process.propagations.awaited(rule, 10 * PATIENCE, "ann"), PATIENCE)
    assert isinstance(seen, Propagation)
    assert not seen.applied
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert process.propagations._followed[1].waiting == 0


async def test_how_many_rules_are_followed_is_bounded(process: Process) -> None:
    """Law 11: of more nothing is recorded, but it can be asked how far they are."""
    process.store.gate.clear()
    for number in range(1, MAX_FOLLOWED + 10):
        process.propagations.made(Rule(f"rule_{number}", ALPHA, number, 0.0, "op", "because"))
    assert len(process.propagations._followed) == MAX_FOLLOWED
    process.store.gate.set()
    last = Rule("rule_last", ALPHA, MAX_FOLLOWED + 9, 0.0, "op", "because")
    assert isinstance(await process.propagations.of(last), Propagation)
    await until(lambda: not process.propagations._followed)


async def test_who_comes_late_to_a_rule_does_not_know_how_long_it_took(bench: Bench) -> None:
    """Another worker made it, and everybody has applied it long ago: when that was is not for this one to say."""
    late = Process(bench)
    rule = await bench.revoke(ALPHA)
    await bench.ledger.heard([ack("gw", epoch=1)[0], ack("dead", max_age=5.0)[0]])
    await late.propagations.step()
    late.time.advance(3)
    waiting = asyncio.create_task(late.propagations.awaited(rule, PATIENCE, "ann"))
    await until(lambda: 1 in late.propagations._followed and late.propagations._followed[1].behind is not None)
    late.time.advance(5)
    seen = await waiting
    assert isinstance(seen, Propagation)
    assert (seen.applied, seen.refusing, seen.slowest) == (True, ("gateway#dead",), None)
    await late.close()


async def test_who_waits_does_so_however_many_rules_are_followed(process: Process) -> None:
    """Agents make rules, too: with many of them they must not keep an operator from hearing when one is applied."""
    await process.bench.ledger.heard([ack("gw")[0]])
    process.store.gate.clear()
    for number in range(10_000, 10_000 + MAX_FOLLOWED):
        process.propagations.made(Rule(f"rule_{number}", ALPHA, number, 0.0, "alpha", "because"))
    rule = await process.revoke()
    assert rule.number not in process.propagations._followed
    waiting = asyncio.create_task(process.propagations.awaited(rule, PATIENCE, "ann"))
    process.store.gate.set()
    await until(lambda: rule.number in process.propagations._followed)
    await process.acks.take(*ack("gw", epoch=1))
    seen = await asyncio.wait_for(waiting, PATIENCE)
    assert isinstance(seen, Propagation)
    assert (seen.applied, seen.verifiers_applied) == (True, 1)


async def test_waiting_for_many_rules_leaves_nothing_behind(process: Process) -> None:
    """Law 11: beyond the bound a rule is followed for as long as somebody waits, and no longer."""
    await process.bench.ledger.heard([ack("gw")[0]])
    process.store.gate.clear()
    for number in range(10_000, 10_000 + MAX_FOLLOWED):
        process.propagations.made(Rule(f"rule_{number}", ALPHA, number, 0.0, "alpha", "because"))
    for _ in range(3):
        rule = await process.bench.revoke(ALPHA)
        await process.propagations.awaited(rule, 0.01, "ann")
    assert len(process.propagations._followed) == MAX_FOLLOWED


async def test_acknowledgements_are_written_together(process: Process) -> None:
    """However many come while the store is busy: the newest of each verifier, by one transaction."""
    names = [f"gw-{place}" for place in range(200)]
    await asyncio.gather(*(process.acks.take(*ack(name)) for name in names))
    assert len(process.store.written) == 1
    process.store.gate.clear()
    for epoch in range(1, 5):
        for name in names:
            await process.acks.take(*ack(name, epoch))
    await process.acks.take(*ack("gw-0", 1))
    process.store.gate.set()
    await process.acks._background.finish()
    assert len(process.store.written) <= 3
    known = {each.name: each.epoch for each in (await process.bench.ledger.present()).verifiers}
    assert known == dict.fromkeys(names, 4)


async def test_what_could_not_be_written_is_written_later(process: Process) -> None:
    """Unless something newer was said meanwhile; it is logged once."""
    await asyncio.gather(process.acks.take(*ack("a")), process.acks.take(*ack("b")))
    process.store.broken = True
    await process.acks.take(*ack("b", 1))
    await until(lambda: process.events.logged)
    await process.acks.take(*ack("b", 3))
    process.acks.leave(Left("gateway", "a"))
    process.store.broken = False
    await process.acks._background.finish()
    assert [(each.name, each.epoch) for each in (await process.bench.ledger.present()).verifiers] == [("b", 3)]
    assert [each[1] for each in process.events.logged] == ["acknowledgements.not_written"]


async def test_who_is_new_is_known_before_it_is_answered(process: Process) -> None:
    """No rule is called applied without it from then on. If it cannot be written, it hears that, and comes again."""
    await process.acks.take(*ack("new"))
    assert [each.name for each in (await process.bench.ledger.present()).verifiers] == ["new"]
    process.store.broken = True
    with pytest.raises(Unavailable):
        await process.acks.take(*ack("late"))
    assert not process.acks._waiting
    process.store.broken = False
    await process.acks.take(*ack("late"))
    assert [each.name for each in (await process.bench.ledger.present()).verifiers] == ["late", "new"]


async def test_who_comes_back_is_as_good_as_new(process: Process) -> None:
    """Whoever was silent here may have left elsewhere. Every answer waits for the store, not only the first."""
    await process.acks.take(*ack("back"))
    await process.bench.ledger.heard([Left("gateway", "back")])
    process.time.advance(16)
    process.store.gate.clear()
    answers = [asyncio.ensure_future(process.acks.take(*ack("back"))) for _ in range(2)]
    await until(lambda: not process.acks._waiting)
    assert not any(answer.done() for answer in answers)
    process.store.gate.set()
    await asyncio.gather(*answers)
    assert [each.name for each in (await process.bench.ledger.present()).verifiers] == ["back"]


async def test_a_look_that_began_before_a_rule_says_nothing_of_it(process: Process) -> None:
    """Somebody may have come between that look and the commit."""
    await process.bench.ledger.heard([ack("first")[0]])
    await process.revoke()
    await until(lambda: process.propagations._followed[1].behind is not None)
    process.store.seen.clear()
    await until(lambda: process.store.held)
    await process.bench.ledger.heard([Left("gateway", "first"), ack("second", 1)[0]])
    second = await process.revoke()
    process.store.seen.set()
    seen = await process.propagations.awaited(second, 0.3, "operator")
    assert isinstance(seen, Propagation)
    assert (seen.applied, seen.waiting_for) == (False, ("gateway#second",))


async def test_a_flood_of_names_is_refused(process: Process) -> None:
    """Of one agent, and in all; who leaves, or is silent for long, makes room."""
    acks = process.acknowledging(each=2, most=3)
    for name, agent in (("a", "one"), ("b", "one"), ("a", "two")):
        await acks.take(*ack(name, agent=agent))
    for name, agent in (("c", "one"), ("b", "two"), ("a", "three")):
        with pytest.raises(Refused) as refused:
            await acks.take(*ack(name, agent=agent))
        assert (refused.value.code, refused.value.retry_after) == (Code.RATE_LIMITED, 60)
    await acks.take(*ack("a", agent="one"))
    acks.leave(Left("one", "b"))
    await acks.take(*ack("c", agent="one"))
    process.time.advance(901)
    await acks.take(*ack("d", agent="three"))
    assert process.meter.acks == {"taken": 6, "refused": 3, "left": 1}
    await acks.close()


async def test_what_a_verifier_cannot_say(process: Process) -> None:
    """Bounds that are none, and epochs that nobody was told of."""
    for max_age in (0.0, -1.0, 600.1, float("nan"), float("inf")):
        with pytest.raises(Malformed):
            await process.acks.take(*ack("a", max_age=max_age))
    with pytest.raises(Refused) as refused:
        await process.acks.take(Acknowledged("gateway", "a", 5, 1.0), mark_of(KEY, 4))
    assert refused.value.code is Code.ACK_INVALID
    with pytest.raises(Malformed):
        process.acks.leave(Left("gateway", "a b"))


async def test_a_clock_that_jumps_ahead_forgets_nobody_who_speaks(process: Process) -> None:
    """Only who was silent at the look before as well is forgotten."""
    ledger, propagations = process.bench.ledger, process.propagations
    await ledger.heard([ack("quiet")[0], ack("loud")[0]])
    assert await propagations.forget_silent(900.0) == 0
    await jump(process, 5000.0)
    assert await propagations.forget_silent(900.0) == 0
    await ledger.heard([ack("loud")[0]])
    assert await propagations.forget_silent(900.0) == 1
    assert [each.name for each in (await ledger.present()).verifiers] == ["loud"]


async def jump(process: Process, seconds: float) -> None:
    """Let the database's clock jump ahead, which is the same as that everything before was so much earlier."""
    early = text("UPDATE verifiers SET seen_at = seen_at - :seconds").bindparams(seconds=seconds)
    await process.bench.ledger._group.run(lambda connection: connection.execute(early))
    remembered = process.propagations._forget_before
    assert remembered is not None
    process.propagations._forget_before = remembered - seconds
