"""Anchoring: what is placed when, what is an alarm, and what never gets in anybody's way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from broker.anchoring import Anchoring
from broker.core.entry import Kind
from broker.core.errors import AnchorFailed, Code, Unavailable
from broker.ports import SignedHead
from tests.support.anchors import GrowingLog, Harbour, KeptAnchor, down, hang, refuse, settle
from tests.support.fakes import Fault


@pytest.fixture
def harbour() -> Harbour:
    """Everything but the anchors."""
    return Harbour()


async def started(harbour: Harbour, **anchors: KeptAnchor) -> Anchoring:
    """Begin to anchor."""
    anchoring = harbour.anchoring(**anchors)
    await anchoring.start()
    await settle()
    return anchoring


def sizes(harbour: Harbour, anchor: KeptAnchor) -> list[int]:
    """Return the sizes of what an anchor holds."""
    return [harbour.log.opened(note)[0] for note in anchor.notes]


async def test_the_newest_checkpoint_is_placed_at_each_pace(harbour: Harbour) -> None:
    """Not each one: those that came meanwhile are covered by the newest."""
    anchor = KeptAnchor()
    harbour.log.grow(3)
    anchoring = await started(harbour, offsite=anchor)
    assert sizes(harbour, anchor) == [3]
    for _ in range(25):
        harbour.log.grow()
        await harbour.pass_time(1, anchoring)
    assert sizes(harbour, anchor) == [3, 13, 23]
    assert [placement.size for placement in harbour.log.noted] == [3, 13, 23]
    await anchoring.close()


async def test_nothing_new_costs_nothing(harbour: Harbour) -> None:
    """Neither a request nor an entry: an idle ledger stays idle."""
    anchor = KeptAnchor()
    harbour.log.grow()
    anchoring = await started(harbour, offsite=anchor)
    await harbour.pass_time(500, anchoring)
    assert anchor.attempts == 1
    assert harbour.ledger.entries == []
    await anchoring.close()


async def test_before_the_first_checkpoint_nothing_is_placed(harbour: Harbour) -> None:
    """Nor is the empty tree, of which nobody learns anything."""
    anchor = KeptAnchor()
    anchoring = await started(harbour, offsite=anchor)
    harbour.log.grow(0)
    await harbour.pass_time(30, anchoring)
    assert anchor.attempts == 0
    harbour.log.grow()
    await harbour.pass_time(10, anchoring)
    assert sizes(harbour, anchor) == [1]
    await anchoring.close()


async def test_anchors_do_not_hold_each_other_up(harbour: Harbour, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that hangs, one that is down and one that raises what it must not: the fourth is as quick as alone."""
    monkeypatch.setattr("broker.anchoring.conductor.STOP_SECONDS", 0.05)

    async def defect() -> None:
        raise ZeroDivisionError

    anchors = {
        "hangs": KeptAnchor(before=hang),
        "down": KeptAnchor(before=down),
        "broken": KeptAnchor(before=defect),
        "well": KeptAnchor(),
    }
    harbour.log.grow()
    anchoring = await started(harbour, **anchors)
    assert sizes(harbour, anchors["well"]) == [1]
    harbour.log.grow()
    await harbour.pass_time(10, anchoring)
    assert sizes(harbour, anchors["well"]) == [1, 2]
    assert "anchor.defect" in harbour.events.names()
    states = {state.name: state.failure for state in anchoring.states()}
    assert states["well"] is None
    assert (states["down"].code, states["broken"].code) == (Code.ANCHOR_UNAVAILABLE, Code.INTERNAL)  # type: ignore[union-attr]
    await anchoring.close()


async def test_what_is_down_is_left_alone_for_longer_and_longer(harbour: Harbour) -> None:
    """And gets what it lacks, at once the newest, when it is there again."""
    anchor = KeptAnchor(before=down)
    harbour.log.grow()
    anchoring = await started(harbour, offsite=anchor)
    await harbour.pass_time(600, anchoring)
    few = anchor.attempts
    assert few < 15
    anchor.before = None
    harbour.log.grow(100)
    await harbour.pass_time(300, anchoring)
    assert sizes(harbour, anchor) == [101]
    assert harbour.meter.failures["offsite", "anchor_unavailable"] == few
    await anchoring.close()


async def test_an_anchor_says_when_to_come_back(harbour: Harbour) -> None:
    """It is not asked before, but never waited for longer than five minutes."""
    for told, attempts in ((200, 1), (100_000, 1)):
        anchor = KeptAnchor(before=refuse(Code.ANCHOR_UNAVAILABLE, told))
        harbour.log.grow()
        anchoring = await started(harbour, offsite=anchor)
        await harbour.pass_time(199, anchoring)
        assert anchor.attempts == attempts
        await harbour.pass_time(102, anchoring)
        assert anchor.attempts == 2
        await anchoring.close()


# --- alarms ---------------------------------------------------------------------------------------------------------


async def test_a_lag_is_measured_and_becomes_an_alarm(harbour: Harbour) -> None:
    """Recorded once, with its reason, however long it lasts; and its end once."""
    anchor = KeptAnchor()
    harbour.log.grow()
    anchoring = await started(harbour, offsite=anchor)
    anchor.before = down
    harbour.log.grow(4)
    await harbour.pass_time(100, anchoring)
    shown = harbour.meter.shown["offsite"]
    assert (shown["entries"], shown["seconds"], shown["alarm"]) == (4, 99.0, False)
    assert harbour.ledger.entries == []
    await harbour.pass_time(1000, anchoring)
    assert harbour.meter.shown["offsite"]["alarm"] is True
    (failed,) = harbour.ledger.members(Kind.ANCHOR_FAILED)
    assert (failed["anchor"], failed["code"], failed["size"]) == ("offsite", "anchor_unavailable", 1)
    assert harbour.events.names().count("anchor.lagging") == 1
    anchor.before = None
    await harbour.pass_time(301, anchoring)
    assert harbour.ledger.kinds() == ["anchor.failed", "anchor.recovered"]
    assert harbour.meter.shown["offsite"]["alarm"] is False
    await anchoring.close()


async def test_entries_about_anchors_do_not_make_more_of_them(harbour: Harbour) -> None:
    """Each entry makes a checkpoint that is to be placed: it comes to rest, with every anchor down, and up again."""
    anchors = {name: KeptAnchor(before=down) for name in ("a", "b", "c")}
    harbour.log.grow()
    anchoring = await started(harbour, **anchors)
    for _ in range(2000):
        harbour.log.grow(len(harbour.ledger.entries) + 1 - len(harbour.log.leaves))
        await harbour.pass_time(1, anchoring)
    assert harbour.ledger.kinds() == ["anchor.failed"] * 3
    for anchor in anchors.values():
        anchor.before = None
    for _ in range(1000):
        harbour.log.grow(len(harbour.ledger.entries) + 1 - len(harbour.log.leaves))
        await harbour.pass_time(1, anchoring)
    assert len(harbour.ledger.entries) == 6
    assert {sizes(harbour, anchor)[-1] for anchor in anchors.values()} == {7}
    assert all(len(anchor.notes) <= 4 for anchor in anchors.values())
    await anchoring.close()


async def test_an_anchor_that_flaps_fills_no_ledger(harbour: Harbour) -> None:
    """Whoever holds the anchor can lose it again and again: the log and the metrics tell, the ledger once a minute."""
    anchor = KeptAnchor()
    harbour.log.grow()
    anchoring = await started(harbour, offsite=anchor)
    for _ in range(600):
        anchor.notes.clear()
        harbour.log.grow()
        await harbour.pass_time(1, anchoring)
    assert harbour.meter.failures["offsite", "anchor_lost"] > 20
    assert len(harbour.ledger.entries) <= 22
    await anchoring.close()


async def test_the_end_of_an_alarm_is_recorded_whatever_became_of_its_reason(harbour: Harbour) -> None:
    """Another reason soon after is logged, and not recorded; that it is over is, since it was that it began."""
    anchor = KeptAnchor(before=down)
    harbour.log.grow()
    anchoring = await started(harbour, offsite=anchor)
    await harbour.pass_time(101, anchoring)
    assert harbour.ledger.kinds() == ["anchor.failed"]
    anchor.notes.append("no note at all\n")
    await anchoring.check()
    await harbour.pass_time(1, anchoring)
    assert harbour.events.names() == ["anchor.lagging", "anchor.inconsistent"]
    anchor.notes.clear()
    anchor.before = None
    await harbour.pass_time(301, anchoring)
    assert harbour.events.names()[-1] == "anchor.recovered"
    kinds = harbour.ledger.kinds()
    assert (kinds[-1], kinds.count("anchor.recovered")) == ("anchor.recovered", 1)
    await anchoring.close()


async def test_an_alarm_that_cannot_be_recorded_is_recorded_later(harbour: Harbour) -> None:
    """The log says it at once; the entry follows when the ledger can be written again."""
    anchor = KeptAnchor(before=down)
    harbour.log.grow()
    harbour.ledger.faults.append(Fault.NOT_APPLIED)
    anchoring = await started(harbour, offsite=anchor)
    await harbour.pass_time(103, anchoring)
    assert harbour.ledger.entries == []
    assert "anchor.lagging" in harbour.events.names()
    await harbour.pass_time(61, anchoring)
    assert harbour.ledger.kinds() == ["anchor.failed"]
    await anchoring.close()


# --- what an anchor holds is compared with the ledger ---------------------------------------------------------------


def rewritten(harbour: Harbour) -> str:
    """Another history of as many entries, signed by the very same key."""
    return harbour.log.fork(2).grow(3).note


def longer(harbour: Harbour) -> str:
    """The same history, which was further once: the ledger was put back."""
    return harbour.log.fork(5, harbour.log.name).grow(4).note


def of_another_key(harbour: Harbour) -> str:
    """A checkpoint under the same name that somebody else has signed."""
    return GrowingLog().grow(2).note


def garbage(harbour: Harbour) -> str:
    """Anything."""
    return "hello\n"


@pytest.mark.parametrize("held", [rewritten, longer, of_another_key, garbage])
async def test_a_contradiction_is_an_alarm_at_once(harbour: Harbour, held: Callable[[Harbour], str]) -> None:
    """Nothing is placed over it; it is logged, measured and recorded; and it ends when it is resolved."""
    harbour.log.grow(5)
    anchor = KeptAnchor([held(harbour)])
    anchoring = await started(harbour, offsite=anchor)
    await harbour.pass_time(1, anchoring)
    assert len(anchor.notes) == 1
    assert harbour.events.names() == ["anchor.inconsistent"]
    assert harbour.meter.shown["offsite"]["alarm"] is True
    (failed,) = harbour.ledger.members(Kind.ANCHOR_FAILED)
    assert failed["code"] == "anchor_inconsistent"
    await harbour.pass_time(2000, anchoring)
    assert len(harbour.ledger.entries) == 1
    anchor.notes.clear()
    await harbour.pass_time(301, anchoring)
    assert sizes(harbour, anchor) == [5]
    assert harbour.ledger.kinds() == ["anchor.failed", "anchor.recovered"]
    await anchoring.close()


async def test_an_anchor_that_lost_something_is_told_of_and_given_anew(harbour: Harbour) -> None:
    """All of it, or the last part; also what an earlier process had placed."""
    for lose in (slice(0, None), slice(-1, None)):
        harbour = Harbour()
        anchor = KeptAnchor()
        for _ in range(2):
            harbour.log.grow(2)
            await (await started(harbour, offsite=anchor)).close()
        assert sizes(harbour, anchor) == [2, 4]
        del anchor.notes[lose]
        anchoring = await started(harbour, offsite=anchor)
        harbour.log.grow()
        await harbour.pass_time(12, anchoring)
        (failed,) = harbour.ledger.members(Kind.ANCHOR_FAILED)
        assert failed["code"] == "anchor_lost"
        assert sizes(harbour, anchor)[-1] == 5
        assert [event for event in harbour.events.names() if event != "anchor.recovered"] == ["anchor.lost"]
        await anchoring.close()


async def test_what_only_takes_is_not_taken_for_a_loser(harbour: Harbour) -> None:
    """An anchor that cannot say what it holds is given the next one, and that is all."""
    anchor = KeptAnchor(remembers=False)
    harbour.log.grow()
    anchoring = await started(harbour, offsite=anchor)
    harbour.log.grow()
    await harbour.pass_time(11, anchoring)
    assert sizes(harbour, anchor) == [1, 2]
    assert harbour.events.names() == []
    await anchoring.close()


# --- faults in pairs: not applied, and applied all the same -----------------------------------------------------------


@pytest.mark.parametrize("applied", [False, True])
async def test_a_placement_that_failed_is_made_again(harbour: Harbour, *, applied: bool) -> None:
    """Whether it was there already or not: in the end it is, and the ledger knows."""
    anchor = KeptAnchor(after=down) if applied else KeptAnchor(before=down)
    harbour.log.grow(3)
    anchoring = await started(harbour, offsite=anchor)
    assert harbour.log.noted == []
    anchor.before = anchor.after = None
    await harbour.pass_time(3, anchoring)
    assert set(sizes(harbour, anchor)) == {3}
    assert [placement.size for placement in harbour.log.noted] == [3]
    await anchoring.close()


async def test_a_placement_that_could_not_be_noted(harbour: Harbour) -> None:
    """The anchor has it all the same; the next process finds it there and goes on from it."""
    anchor = KeptAnchor()
    harbour.log.grow(3)
    harbour.log.failure = Unavailable(Code.LEDGER_UNAVAILABLE, "the disk is full")
    anchoring = await started(harbour, offsite=anchor)
    assert (sizes(harbour, anchor), harbour.log.noted) == ([3], [])
    assert anchoring.states()[0].failure is None
    await anchoring.close()
    harbour.log.failure = None
    harbour.log.grow()
    later = await started(harbour, offsite=anchor)
    assert sizes(harbour, anchor) == [3, 4]
    assert harbour.events.names() == []
    await later.close()


async def test_a_ledger_that_cannot_be_read_is_no_contradiction(harbour: Harbour) -> None:
    """What the anchor holds cannot be compared: the attempt fails with the ledger's own code."""
    anchor = KeptAnchor()
    harbour.log.grow()
    anchoring = await started(harbour, offsite=anchor)
    harbour.log.failure = Unavailable(Code.LEDGER_UNAVAILABLE, "the disk is full")
    harbour.log.grow()
    await harbour.pass_time(10, anchoring)
    (state,) = anchoring.states()
    assert state.failure is not None
    assert (state.failure.code, state.alarm) == (Code.LEDGER_UNAVAILABLE, False)
    await anchoring.close()


# --- stopping -------------------------------------------------------------------------------------------------------


async def test_the_last_checkpoint_is_placed_when_the_broker_stops(harbour: Harbour) -> None:
    """Also that of entries for which there was no checkpoint yet; the anchors are closed."""
    anchor = KeptAnchor()
    harbour.log.grow()
    anchoring = await started(harbour, offsite=anchor)
    harbour.log.leaves += harbour.log.fork(0).leaves or [bytes(32)]
    await anchoring.close()
    assert sizes(harbour, anchor) == [1, 2]
    assert anchor.closed


async def test_stopping_waits_for_no_anchor_that_is_not_well(harbour: Harbour, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that fails is not asked again; one that hangs has a few seconds, here less."""
    monkeypatch.setattr("broker.anchoring.conductor.STOP_SECONDS", 0.05)
    failing, hanging = KeptAnchor(before=down), KeptAnchor(before=hang)
    harbour.log.grow()
    anchoring = await started(harbour, failing=failing, hanging=hanging)
    await asyncio.wait_for(anchoring.close(), 20)
    assert failing.attempts == 1
    assert (failing.closed, hanging.closed) == (True, True)


async def test_stopping_with_a_ledger_that_is_down(harbour: Harbour) -> None:
    """There is no last checkpoint then, and no error either."""
    anchor = KeptAnchor()
    anchoring = await started(harbour, offsite=anchor)

    async def broken() -> str:
        raise Unavailable(Code.LEDGER_UNAVAILABLE, "no")

    harbour.log.checkpoint = broken  # type: ignore[method-assign]
    await anchoring.close()
    assert anchor.closed


# --- asking -----------------------------------------------------------------------------------------------------------


async def test_what_is_known_of_each(harbour: Harbour) -> None:
    """A checkpoint, nothing, or why it cannot be said; contradictions are not judged here, forgeries not believed."""
    harbour.log.grow(6)
    held = harbour.log.fork(4, harbour.log.name).grow(0)

    class Unreadable(KeptAnchor):
        async def latest(self) -> str | None:
            raise AnchorFailed(Code.ANCHOR_UNAVAILABLE, "nobody is there")

    anchoring = harbour.anchoring(
        holds=KeptAnchor([held.note]),
        ahead=KeptAnchor([longer(harbour)]),
        empty=KeptAnchor(),
        silent=KeptAnchor([held.note], remembers=False),
        forged=KeptAnchor([of_another_key(harbour)]),
        down=Unreadable(),
    )
    known = await anchoring.known()
    assert known["holds"] == held
    assert isinstance(known["ahead"], SignedHead)
    assert known["ahead"].size == 9
    assert known["empty"] is known["silent"] is None
    codes = {name: answer.code for name, answer in known.items() if isinstance(answer, AnchorFailed)}
    assert codes == {"forged": Code.ANCHOR_INCONSISTENT, "down": Code.ANCHOR_UNAVAILABLE}
    checked = await anchoring.check()
    assert checked["holds"] == held
    assert isinstance(checked["ahead"], AnchorFailed)
    assert harbour.ledger.entries == []


async def test_a_check_beside_a_placement(harbour: Harbour) -> None:
    """What is placed while an anchor is asked is neither ahead of the ledger nor lost, whichever of the two is seen."""

    class Slow(KeptAnchor):
        answer: int | None = None

        async def latest(self) -> str | None:
            answer, self.answer = self.answer, None
            if answer is not None:
                harbour.log.grow()
                await harbour.pass_time(11, anchoring)
            return self.notes[-1 if answer is None else answer] if self.notes else None

    anchor = Slow()
    harbour.log.grow(2)
    anchoring = await started(harbour, offsite=anchor)
    for number, answer in enumerate((-1, -2), 2):
        anchor.answer = answer
        checked = await anchoring.check()
        assert isinstance(checked["offsite"], SignedHead)
        assert len(anchor.notes) == number
    assert harbour.events.names() == []
    await anchoring.close()


async def test_a_check_finds_a_loss_while_nothing_happens(harbour: Harbour) -> None:
    """It is an alarm like one that an attempt finds, and what is lost is placed again."""
    anchor = KeptAnchor()
    harbour.log.grow(2)
    anchoring = await started(harbour, offsite=anchor)
    anchor.notes.clear()
    checked = await anchoring.check()
    assert isinstance(checked["offsite"], AnchorFailed)
    assert checked["offsite"].code is Code.ANCHOR_LOST
    await harbour.pass_time(11, anchoring)
    assert sizes(harbour, anchor) == [2]
    assert harbour.ledger.kinds() == ["anchor.failed", "anchor.recovered"]
    await anchoring.close()


async def test_asking_a_hanging_anchor_ends(harbour: Harbour, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others' answers are not lost."""
    monkeypatch.setattr("broker.anchoring.conductor.LOOK_SECONDS", 0.05)

    class Hanging(KeptAnchor):
        async def latest(self) -> str | None:
            await hang()
            return None

    held = harbour.log.grow()
    known = await harbour.anchoring(hangs=Hanging(), holds=KeptAnchor([held.note])).known()
    assert isinstance(known["hangs"], AnchorFailed)
    assert known["holds"] == held


async def test_an_attempt_that_hangs_ends(harbour: Harbour, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a failure like any other."""
    monkeypatch.setattr("broker.anchoring.station.PLACE_SECONDS", 0.01)
    anchor = KeptAnchor(before=hang)
    harbour.log.grow()
    anchoring = await started(harbour, offsite=anchor)
    for _ in range(1000):
        if harbour.meter.failures:
            break
        await asyncio.sleep(0.01)
    assert harbour.meter.failures == {("offsite", "anchor_unavailable"): 1}
    await anchoring.close()
