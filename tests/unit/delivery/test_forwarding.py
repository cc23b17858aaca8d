"""Forwarding: nothing is lost or out of order, whatever the receiver does, and nothing waits but in the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.exporting import FORMATS, Event
from broker.delivery.cursor import Cursor
from broker.delivery.forwarding import (
    ATTEMPTS,
    LONGEST_WAIT,
    MAX_BATCH_BYTES,
    EntryRefused,
    Forwarding,
    Manner,
    ReceiverDown,
)
from broker.delivery.receiver import Accepted, Later, Line, NotAccepted, Outcome, PartlyAccepted, TooLarge
from tests.support.entries import Entries
from tests.support.virtual_time import START, VirtualTime

FOLLOW = Manner(source="urn:example:ledger", follow=True)
ONCE = Manner(source="urn:example:ledger")
SKIP = Manner(source="urn:example:ledger", skip_refused=True)

Answer = Callable[[Sequence[Line]], Outcome]


@dataclass
class ScriptedReceiver:
    """Keeps what it accepts. ``answer`` judges a batch; what is on its way can be lost with the connection."""

    answer: Answer = lambda _: Accepted()
    window: int = 0
    confirms: bool = True
    broken: bool = False
    kept: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    finished: int = 0

    async def send(self, lines: Sequence[Line]) -> Outcome:
        outcome = self.answer(lines)
        self.broken = False
        self.sizes.append(len(lines))
        assert sum(len(line.text) for line in lines) <= MAX_BATCH_BYTES or len(lines) == 1
        if isinstance(outcome, Accepted):
            self.kept += [line.event.seq for line in lines]
        return outcome

    async def finish(self) -> bool:
        self.finished += 1
        return self.confirms

    def breaks(self, lost: int) -> None:
        """Lose the connection, and the last entries with it."""
        self.broken = True
        del self.kept[len(self.kept) - lost :]


@dataclass
class Watched:
    """An export and what surrounds it."""

    receiver: ScriptedReceiver
    manner: Manner
    cursor: Cursor | None = None
    time: VirtualTime = field(default_factory=VirtualTime)
    told: list[str] = field(default_factory=list)
    export: Forwarding = field(init=False)

    def __post_init__(self) -> None:
        self.export = Forwarding(
            FORMATS["jsonl"],
            self.receiver,
            self.cursor,
            self.manner,
            timing=self.time.timing(),
            tell=self.told.append,
        )

    async def until(self, entries: Entries, holds: Callable[[], bool]) -> None:
        """Run an export that follows until something holds."""
        running = asyncio.create_task(self.export.run(entries.read, 0))
        async with asyncio.timeout(30):
            while not (holds() or running.done()):  # noqa: ASYNC110 - time flows by itself here
                await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


def first_times(places: Sequence[int]) -> list[int]:
    """Return what is left when whatever came before is dropped, as receivers do."""
    return list(dict.fromkeys(places))


async def test_an_hour_of_500(tmp_path: Path) -> None:
    """An outage costs a few attempts and no memory: afterwards everything arrives, in order and once."""
    time = VirtualTime()
    receiver = ScriptedReceiver(lambda _: Accepted() if time.wall >= START + 3600 else Later("it answers 500"))
    cursor, entries = Cursor(tmp_path / "cursor"), Entries(2_000)
    watched = Watched(receiver, FOLLOW, cursor, time)
    await watched.until(entries, lambda: len(receiver.kept) >= entries.count)
    assert receiver.kept == list(range(entries.count))
    assert cursor.read() == entries.count
    refused = sum(1 for pause in time.slept if pause != 1.0)
    assert 60 <= refused <= 130  # about one a minute
    assert entries.reads <= refused + 2 * entries.count // entries.page + 5
    assert watched.told[0].endswith(": it answers 500")


async def test_the_wait_that_a_receiver_asks_for() -> None:
    """It is kept, if it is longer than ours; but nobody can make us wait for a year."""
    answers = iter([Later("busy", 90.0), Later("busy", 1e12), Later("busy", 0.0)])
    watched = Watched(ScriptedReceiver(lambda _: next(answers, Accepted())), ONCE)
    await watched.export.run(Entries(3).read, 0)
    assert watched.time.slept[:2] == [90.0, LONGEST_WAIT]
    assert watched.time.slept[2] < 3


async def test_an_export_that_does_not_follow_gives_up(tmp_path: Path) -> None:
    """After a few attempts it says why, and the cursor stays where it was."""
    cursor = Cursor(tmp_path / "cursor")
    cursor.write(1)
    receiver = ScriptedReceiver(lambda _: Later("it answers 503"))
    with pytest.raises(ReceiverDown, match="it answers 503"):
        await Watched(receiver, ONCE, cursor).export.run(Entries(3).read, 1)
    assert len(receiver.sizes) == ATTEMPTS
    assert cursor.read() == 1


async def test_a_batch_that_is_too_large() -> None:
    """It is halved until the receiver takes it; then batches grow again."""
    receiver = ScriptedReceiver(lambda lines: TooLarge() if len(lines) > 60 else Accepted())
    await Watched(receiver, ONCE).export.run(Entries(1_000).read, 0)
    assert receiver.kept == list(range(1_000))
    assert receiver.sizes[:3] == [200, 100, 50]


@pytest.mark.parametrize("answer", [TooLarge(), NotAccepted("it answers 400")])
async def test_an_entry_that_is_refused_for_good(tmp_path: Path, answer: Outcome) -> None:
    """Everything before it arrives; then it is told by its place, and nothing is left out silently."""

    def judge(lines: Sequence[Line]) -> Outcome:
        return answer if any(line.event.seq in {37, 500} for line in lines) else Accepted()

    receiver, cursor = ScriptedReceiver(judge), Cursor(tmp_path / "cursor")
    with pytest.raises(EntryRefused, match="refuses entry 37: "):
        await Watched(receiver, ONCE, cursor).export.run(Entries(1_000).read, 0)
    assert (receiver.kept, cursor.read()) == (list(range(37)), 37)
    watched = Watched(receiver, SKIP, cursor)
    await watched.export.run(Entries(1_000).read, 37)
    assert receiver.kept == [seq for seq in range(1_000) if seq not in {37, 500}]
    assert (watched.export.skipped, cursor.read()) == (2, 1_000)
    assert [line.partition(": the")[0] for line in watched.told] == ["skipped", "skipped"]


async def test_entries_that_are_refused_among_accepted_ones() -> None:
    """A receiver that took a batch but some of it is not sent it again; that some are missing is told."""
    receiver = ScriptedReceiver(lambda lines: PartlyAccepted(2, "no such field") if lines[0].event.seq else Accepted())
    with pytest.raises(EntryRefused, match="refuses 2 of the entries 200 to 299: no such field"):
        await Watched(receiver, ONCE).export.run(Entries(300).read, 0)
    watched = Watched(receiver, SKIP)
    await watched.export.run(Entries(300).read, 0)
    assert (watched.export.skipped, receiver.sizes[-1]) == (2, 100)


async def test_a_break_is_noticed_while_nothing_comes(tmp_path: Path) -> None:
    """What may be lost with a connection is sent again, although there is nothing new."""
    receiver, cursor = ScriptedReceiver(window=10_000), Cursor(tmp_path / "cursor")
    watched = Watched(receiver, FOLLOW, cursor)
    entries = Entries(1_000)
    broke: list[int] = []

    def settled() -> bool:
        if len(receiver.kept) == entries.count and not broke:
            broke.append(cursor.read() or 0)
            receiver.breaks(lost=30)
        return bool(broke) and receiver.kept[-1] == entries.count - 1 and not receiver.broken

    await watched.until(entries, settled)
    assert first_times(receiver.kept) == list(range(entries.count))
    assert 0 < broke[0] < 970
    assert receiver.kept.count(999) == 1
    assert cursor.read() == entries.count  # the receiver confirmed the end when we took leave


async def test_an_end_that_is_not_confirmed(tmp_path: Path) -> None:
    """The cursor stays behind, so that the next run sends the rest again, and it is told."""
    receiver, cursor = ScriptedReceiver(window=10_000, confirms=False), Cursor(tmp_path / "cursor")
    watched = Watched(receiver, ONCE, cursor)
    await watched.export.run(Entries(1_000).read, 0)
    again = 1_000 - (cursor.read() or 0)
    assert 0 < again < 500
    assert watched.told == [f"the receiver did not confirm the last {again} entries; with a cursor they are sent again"]


async def test_large_entries() -> None:
    """No batch is larger than its limit, unless a single entry is; nothing is left out."""
    entries = Entries(50, odd={seq: {"purpose": "\u00e9" * 60_000} for seq in range(10, 40)})
    receiver = ScriptedReceiver()
    await Watched(receiver, ONCE).export.run(entries.read, 0)
    assert receiver.kept == list(range(50))


STEPS = st.lists(st.sampled_from(["ok", "later", "large", "break", "lose"]), max_size=60)


@given(steps=STEPS, window=st.sampled_from([0, 500, 5_000, 50_000]))
def test_whatever_a_receiver_does(steps: list[str], window: int) -> None:
    """After any history, each entry has arrived, in order; the cursor was never ahead of what can be lost."""
    receiver = ScriptedReceiver(window=window)
    script = iter(steps)
    size = len(FORMATS["jsonl"].line(Event(299, Entries(300).entry(299), FOLLOW.source)))

    def judge(lines: Sequence[Line]) -> Outcome:
        match next(script, "ok"):
            case "later":
                return Later("it answers 503")
            case "large" if len(lines) > 1:
                return TooLarge()
            case "break":
                receiver.breaks(lost=0)
                return Later("it broke")
            case "lose":
                on_its_way = min(window // size, len(receiver.kept))
                receiver.breaks(lost=on_its_way)
                return Later("it broke, and took the last messages with it")
            case _:
                return Accepted()

    receiver.answer = judge
    entries = Entries(300, page=50)

    class CheckedCursor(Cursor):
        def write(self, following: int) -> None:
            assert {*range(following)} <= {*receiver.kept}

    watched = Watched(receiver, FOLLOW, CheckedCursor(Path("unused")))
    done = lambda: 299 in receiver.kept and not receiver.broken and next(script, None) is None  # noqa: E731 - short
    asyncio.run(watched.until(entries, done))
    assert first_times(receiver.kept) == list(range(300))
    for before, after in pairwise(receiver.kept):
        assert after <= before + 1  # never a gap that is filled later


async def test_it_begins_where_it_is_told_to() -> None:
    """A start beyond the end of the ledger is no error: it waits there."""
    receiver = ScriptedReceiver()
    await Watched(receiver, ONCE).export.run(Entries(3).read, 7)
    assert receiver.kept == []
