"""The broker's check of itself: at its pace, beside everything else, with what others know; and what it remembers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from broker import self_check
from broker.core.errors import BrokerError, Code, Unavailable
from broker.core.selector import Selector
from broker.core.soundness import Fault
from broker.core.tree_head import KnownHead
from broker.self_check import PIECE, SelfCheck
from tests.support.broker_app import KeptEvents
from tests.support.ledgers import Bench, FixedClock, noted, opened, outcomes, registered
from tests.support.virtual_time import VirtualTime

ANCHOR = "the checkpoint at the anchor offsite"
RATE = 1000.0
ALPHA = Selector(agent="alpha")


def sign(size: int, root: bytes) -> str:
    """Make a note as a checkpoint has it."""
    return f"origin\n{size}\n{base64.b64encode(root).decode()}\n"


def open_note(note: str) -> tuple[int, bytes]:
    """Read such a note."""
    _, size, root, _ = note.split("\n")
    return int(size), base64.b64decode(root)


@dataclass
class Checked:
    """A ledger in use, and its check with clocks that a test moves; ``answers`` is what others say."""

    bench: Bench
    time: VirtualTime
    events: KeptEvents = field(default_factory=KeptEvents)
    answers: dict[str, KnownHead | BrokerError | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Compose the check."""
        ledger = self.bench.ledger
        self.check = SelfCheck(
            ledger=ledger.integrity,
            outside=self.outside,
            size=lambda: ledger.size,
            timing=self.time.timing(),
            events=self.events,
            entries_per_second=RATE,
        )

    async def outside(self) -> Mapping[str, KnownHead | BrokerError | None]:
        """Answer for everybody."""
        return self.answers

    async def head(self) -> KnownHead:
        """Return what an anchor knows that was given a checkpoint just now."""
        await self.bench.ledger.checkpoint()
        head = await self.bench.ledger.head()
        return KnownHead(head.size, head.root)


@asynccontextmanager
async def checked(path: Path, *, clock: FixedClock | None = None) -> AsyncIterator[Checked]:
    """Open a ledger with a check of it."""
    async with opened(path, clock=clock, sign=sign, open_note=open_note) as bench:
        yield Checked(bench, VirtualTime())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the ledger is."""
    return tmp_path / "ledger.db"


async def fill(bench: Bench, count: int) -> None:
    """Commit entries."""
    await outcomes(bench.ledger, [noted(number=number) for number in range(count)])


def tamper(path: Path, sql: str, *values: object) -> None:
    """Change the database behind the broker's back."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        assert database.execute(sql, values).rowcount


# --- going through everything -----------------------------------------------------------------------------------------


async def test_a_sound_ledger_passes_at_its_pace(path: Path) -> None:
    """As many entries in a second as the setting says; it is noted when that was."""
    async with checked(path) as it:
        await fill(it.bench, 4 * PIECE + 7)
        await it.bench.ledger.checkpoint()
        it.time.advance(60)
        assert it.check.seconds_since_pass() == 60
        await it.check.go_through()
        assert it.check.unsound is None
        assert it.check.checked == 4 * PIECE + 7
        assert it.check.seconds_since_pass() == 0
        assert it.time.slept == [PIECE / RATE] * 4
        assert it.events.lines == []
        await it.bench.issue("tok_1")


async def test_what_comes_in_meanwhile_waits_for_the_next_time(path: Path) -> None:
    """But the rules and agents that it makes are no surprise, nor are the checkpoints."""
    async with checked(path) as it:
        await fill(it.bench, 4 * PIECE)
        pauses: list[float] = []

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            await fill(it.bench, 1000)
            await it.bench.ledger.commit(registered(f"agent-{len(pauses)}"))
            await it.bench.revoke(ALPHA)
            await it.bench.ledger.checkpoint()

        it.check._timing = replace(it.time.timing(), sleep=sleep)
        await it.check.go_through()
        assert it.check.unsound is None
        assert it.check.checked == 4 * PIECE
        assert pauses == [PIECE / RATE] * 4
        tamper(path, "DELETE FROM rules WHERE number = 3")
        await it.check.go_through()
        assert it.check.unsound is not None
        assert "rule 3, recorded by entry" in it.check.unsound.problems[0]


async def test_damage_is_found_and_nothing_is_written_any_more(path: Path) -> None:
    """Wherever it is; it is told once, in words, and to callers only that there is something."""
    async with checked(path) as it:
        await fill(it.bench, 2 * PIECE)
        rule = await it.bench.revoke(ALPHA)
        tamper(path, "UPDATE entries SET agent = 'eve' WHERE seq = ?", PIECE + 3)
        await it.check.go_through()
        unsound = it.check.unsound
        assert unsound is not None
        assert unsound.fault is Fault.DAMAGED
        assert unsound.problems == (f"entry {PIECE + 3}: the columns agent differ from the entry itself",)
        with pytest.raises(Unavailable) as caught:
            await it.bench.issue("tok_1")
        assert caught.value.code is Code.LEDGER_CORRUPT
        assert "eve" not in caught.value.public
        assert "operator" in caught.value.public
        assert it.bench.revocations.rules.get(rule.id) == rule
        it.check.tell()
        await it.check.go_through()
        [told] = it.events.of("ledger.unsound")
        assert (told["fault"], told["problems"]) == ("damaged", list(unsound.problems))
        assert "accept-restore" in told["way_on"]


async def test_a_restart_does_not_forget_what_was_found(path: Path) -> None:
    """Where the first look sees nothing; and once it is mended, it is gone on with."""
    async with checked(path) as it:
        await fill(it.bench, 10)
        tamper(path, "UPDATE entries SET agent = 'eve' WHERE seq = 3")
        await it.check.go_through()
    async with checked(path) as it:
        assert it.check.unsound is not None
        assert "entry 3" in it.check.unsound.problems[0]
        with pytest.raises(Unavailable):
            await it.bench.issue("tok_1")
    tamper(path, "UPDATE entries SET agent = NULL WHERE seq = 3")
    async with checked(path) as it:
        assert it.check.unsound is None
        await it.bench.issue("tok_1")
    async with checked(path) as it:
        assert it.check.unsound is None


async def test_a_ledger_that_was_swapped_under_the_broker_is_told(path: Path) -> None:
    """What the writer notices by itself is told like everything else."""
    async with checked(path) as it:
        await fill(it.bench, 3)
        path.unlink()
        with pytest.raises(Unavailable):
            await it.bench.issue("tok_1")
        it.check.tell()
        [told] = it.events.of("ledger.unsound")
        assert "changed by something else" in told["problems"][0]


# --- what others know -------------------------------------------------------------------------------------------------


async def test_others_who_know_nothing_else_are_no_alarm(path: Path) -> None:
    """Those who hold an earlier checkpoint, those who hold none yet, and those who do not answer."""
    async with checked(path) as it:
        await fill(it.bench, 5)
        it.answers = {ANCHOR: await it.head(), "b": None, "c": Unavailable(Code.INTERNAL, "it is down")}
        await fill(it.bench, 5)
        await it.check.look_outside()
        await it.check.go_through()
        assert it.check.unsound is None
        assert it.events.lines == []


@pytest.mark.parametrize("known", [KnownHead(99, b"x" * 32), KnownHead(5, b"x" * 32)], ids=["ahead", "another"])
async def test_one_who_knows_of_another_ledger_is_believed(path: Path, known: KnownHead) -> None:
    """Nothing else could tell: the whole machine was rolled back, with all that is beside the ledger."""
    async with checked(path) as it:
        await fill(it.bench, 5)
        await it.head()
        it.answers = {ANCHOR: known}
        await it.check.look_outside()
        unsound = it.check.unsound
        assert unsound is not None
        assert unsound.fault is Fault.BEHIND
        assert ANCHOR in unsound.problems[0]
        with pytest.raises(Unavailable):
            await it.bench.issue("tok_1")
        await it.check.go_through()
        assert it.check.unsound is not None
        assert it.check.unsound.fault is Fault.BEHIND
    async with checked(path) as it:  # the anchor cannot be asked now
        assert it.check.unsound is not None
        it.answers = {ANCHOR: Unavailable(Code.INTERNAL, "it is down")}
        await it.check.look_outside()
        assert it.check.unsound is not None
        with pytest.raises(Unavailable):
            await it.bench.issue("tok_1")
        it.answers = {ANCHOR: KnownHead(5, (await it.bench.ledger.head()).root)}
        await it.check.look_outside()
        assert it.check.unsound is None
        await it.bench.issue("tok_1")


async def test_others_are_not_waited_for_for_long(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that hangs holds up neither the start nor the check."""
    monkeypatch.setattr(self_check, "OUTSIDE_SECONDS", 0.01)

    async def never() -> Mapping[str, KnownHead]:
        await asyncio.Event().wait()
        return {}

    async with checked(path) as it:
        await fill(it.bench, 3)
        it.check._outside = never
        await it.check.look_outside()
        await it.check.go_through()
        assert it.check.unsound is None


# --- the clock --------------------------------------------------------------------------------------------------------


async def test_a_clock_that_is_set_back_across_a_checkpoint(path: Path) -> None:
    """Times of entries and checkpoints go back; nothing else does, and it is all sound."""
    clock = FixedClock()
    async with checked(path, clock=clock) as it:
        await it.bench.issue("tok_1")
        await it.bench.revoke(ALPHA)
        before = await it.head()
        clock.time -= 7200
        await it.bench.issue("tok_2")
        await it.bench.revoke(ALPHA, "rule_b")
        it.answers = {ANCHOR: before}
        await it.bench.ledger.recall(clock.time)
        await it.check.look_outside()
        await it.check.go_through()
        assert it.check.unsound is None
    async with checked(path, clock=clock) as it:
        assert it.bench.epoch == 2
        await it.bench.issue("tok_3")
        await it.check.go_through()
        assert it.check.unsound is None
        await it.bench.verified()
