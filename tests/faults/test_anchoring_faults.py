"""The process dies between any two steps of anchoring: what the next one does contradicts nothing that is outside."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.anchoring import Anchoring, Means, Pace
from broker.anchors.file import FileAnchor
from broker.core.entry import Kind
from broker.core.errors import Code, Unavailable
from broker.core.merkle import verify_consistency
from broker.ledger import SqlLedger
from broker.ports import Anchor
from broker.signing.checkpoint import Checkpoint, open_note, sign_checkpoint, verifier_key
from tests.support.anchors import ORIGIN, KeptAnchor, RecordingAnchorMeter, settle
from tests.support.fakes import RecordingEvents
from tests.support.ledgers import Bench, noted, opened
from tests.support.virtual_time import VirtualTime

KEY = Ed25519PrivateKey.generate()
VKEY = verifier_key(ORIGIN, KEY.public_key())


def sign(size: int, root: bytes) -> str:
    """Sign a checkpoint."""
    return sign_checkpoint(Checkpoint(ORIGIN, size, root), ORIGIN, KEY)


def opened_note(note: str) -> tuple[int, bytes]:
    """Verify a note."""
    checkpoint = open_note(note, VKEY)
    return checkpoint.size, checkpoint.root


def copy(path: Path, place: Path) -> None:
    """Copy a ledger that is in use, as it is on the disk at this moment."""
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(place)) as target:
        source.backup(target)


@dataclass
class Process:
    """Anchoring over a ledger that is open."""

    bench: Bench
    anchors: dict[str, Anchor]
    time: VirtualTime = field(default_factory=lambda: VirtualTime(flows=False))
    events: RecordingEvents = field(default_factory=RecordingEvents)

    def anchoring(self) -> Anchoring:
        """Return the use case."""
        means = Means(
            ledger=self.bench.ledger,
            records=self.bench.ledger,
            open_note=opened_note,
            clock=self.bench.clock,
            timing=self.time.timing(),
            meter=RecordingAnchorMeter(),
            events=self.events,
            leads=lambda: True,
        )
        pace = Pace(kind="file", every_seconds=1.0, alarm_seconds=60.0)
        return Anchoring({name: (anchor, pace) for name, anchor in self.anchors.items()}, means)

    async def grow(self, entries: int = 1) -> None:
        """Add entries, and sign the checkpoint."""
        for _ in range(entries):
            await self.bench.ledger.commit(noted())
        await self.bench.ledger.checkpoint()


async def hold_together(ledger: SqlLedger, notes: list[str]) -> None:
    """Assert that everything an anchor holds is a part of the ledger's history, and that no size has two roots."""
    head = await ledger.head()
    roots: dict[int, bytes] = {}
    for note in notes:
        size, root = opened_note(note)
        assert roots.setdefault(size, root) == root
        proof = await ledger.consistency(size, head.size)
        assert verify_consistency(size, root, head.size, head.root, proof)


POINTS = ("committed", "size durable, not signed", "signed, not placed", "placed, not noted")


@pytest.mark.parametrize("point", POINTS)
async def test_the_process_dies_between_two_steps(tmp_path: Path, point: str) -> None:
    """The next process starts from what was on the disk at that moment, and from what the anchor had by then."""
    path, crashed = tmp_path / "ledger.db", tmp_path / "crashed.db"
    anchor = KeptAnchor()
    reached: list[list[str]] = []
    armed = False

    def reach(name: str) -> None:
        if armed and name == point and not reached:
            copy(path, crashed)
            reached.append(list(anchor.notes))

    def signing(size: int, root: bytes) -> str:
        reach("size durable, not signed")
        return sign(size, root)

    def at(name: str) -> Callable[[], Awaitable[None]]:
        async def here() -> None:
            reach(name)

        return here

    anchor.before, anchor.after = at("signed, not placed"), at("placed, not noted")
    async with opened(path, sign=signing) as bench:
        process = Process(bench, {"offsite": anchor})
        await process.grow(3)
        anchoring = process.anchoring()
        await anchoring.close()
        armed = True
        await bench.ledger.commit(noted())
        reach("committed")
        await bench.ledger.checkpoint()
        await process.anchoring().close()
    (notes,) = reached
    survivor = KeptAnchor(notes)
    async with opened(crashed, sign=sign) as bench:
        process = Process(bench, {"offsite": survivor})
        await process.grow(2)
        await process.anchoring().close()
        assert opened_note(survivor.notes[-1])[0] == bench.ledger.size
        assert process.events.names() == []
        await hold_together(bench.ledger, anchor.notes[: len(notes)] + survivor.notes)
        assert [placement.size for placement in await bench.ledger.placements()] == [bench.ledger.size]
        await bench.verified()


async def test_a_ledger_that_was_put_back_is_found_by_its_anchor(tmp_path: Path) -> None:
    """Alone: nothing beside the ledger knows that it was further, not even what it noted of placements."""
    path, older, file = tmp_path / "ledger.db", tmp_path / "older.db", tmp_path / "anchor.jsonl"
    async with opened(path, sign=sign) as bench:
        process = Process(bench, {"offsite": FileAnchor(file, clock=bench.clock, timeout_seconds=30)})
        await process.grow(3)
        copy(path, older)
        await process.grow(4)
        await process.anchoring().close()
    for more in (0, 2, 4, 9):
        again = tmp_path / f"again-{more}.db"
        copy(older, again)
        async with opened(again, sign=sign) as bench:
            process = Process(bench, {"offsite": FileAnchor(file, clock=bench.clock, timeout_seconds=30)})
            for number in range(more):
                await bench.ledger.commit(noted(agent=f"another-{number}"))
            await bench.ledger.checkpoint()
            anchoring = process.anchoring()
            checked = await anchoring.check()
            assert getattr(checked["offsite"], "code", None) is Code.ANCHOR_INCONSISTENT
            await anchoring.watch()
            assert process.events.names() == ["anchor.inconsistent"]
            failed = (await bench.ledger.records())[-1].members
            assert (failed["kind"], failed["code"]) == (Kind.ANCHOR_FAILED, "anchor_inconsistent")
            await anchoring.close()
            await bench.verified()
    assert len(file.read_text().splitlines()) == 1


async def test_issuing_waits_for_no_anchor(tmp_path: Path) -> None:
    """While one hangs and another fails, commits go on; a ledger that fails to note a placement says so itself."""

    async def out_of_order() -> None:
        raise Unavailable(Code.INTERNAL, "no")

    hanging, failing = KeptAnchor(), KeptAnchor(before=out_of_order)
    release = VirtualTime(flows=False)

    async def hang() -> None:
        await release.sleep(1)

    hanging.before = hang
    async with opened(tmp_path / "ledger.db", sign=sign) as bench:
        process = Process(bench, {"hanging": hanging, "failing": failing})
        await process.grow()
        anchoring = process.anchoring()
        await anchoring.start()
        await settle()
        while hanging.attempts == 0 or failing.attempts == 0:
            await bench.ledger.commit(noted())
        for _ in range(50):
            await bench.ledger.commit(noted())
        await bench.ledger.checkpoint()
        assert hanging.notes == failing.notes == []
        hanging.before, failing.before = None, None
        release.advance(1)
        process.time.advance(400)
        while not (hanging.notes and failing.notes):
            await bench.ledger.commit(noted())
        await anchoring.close()
        await hold_together(bench.ledger, hanging.notes + failing.notes)
        await bench.verified()
