"""What verifying says an auditor can rely on: from databases and exports, with checkpoints that were kept elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.core.entry import decode
from broker.core.errors import Unavailable
from broker.core.exporting import FORMATS, Event
from broker.core.personal import personal_beside
from broker.core.trust import Trust
from broker.ledger.reading import offline, records
from broker.ledger.verify import Kept, Report, verify_file
from tests.support.ledgers import opened

SIZE = 600


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Kept]]:
    """A ledger of 600 entries, and checkpoints of three of its sizes that somebody kept."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    return path, asyncio.run(filled(path))


async def filled(path: Path) -> list[Kept]:
    """Make the ledger; return its checkpoints."""
    notes = []
    async with opened(path) as bench:
        for number in range(SIZE):
            await bench.issue(f"tok_{number}", agent=f"agent-{number}", purpose="caf\u00e9 \U0001f980 \x01")
            if number + 1 in {100, 500, 600}:
                notes.append(Kept(number + 1, (await bench.ledger.head()).root, f"note-{number + 1}"))
    return notes


def changed(path: Path, folder: Path, *statements: str) -> Path:
    """Return a copy of a ledger that was changed behind the broker's back."""
    copy = folder / "copy.db"
    shutil.copy(path, copy)
    with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)
    return copy


def trusted(report: Report) -> list[tuple[int, int, Trust]]:
    """Return what a report says of entries."""
    return [(span.first, span.end, span.trust) for span in report.spans]


def test_the_largest_part_that_a_checkpoint_vouches_for(kept: tuple[Path, list[Kept]]) -> None:
    """Without kept checkpoints nothing is vouched for; with one, all up to it; the rest fits, and no more."""
    path, notes = kept
    assert trusted(verify_file(path)) == [(0, SIZE, Trust.UNVOUCHED)]
    report = verify_file(path, kept=notes[:2])
    assert report.sound
    assert trusted(report) == [(0, 500, Trust.VOUCHED), (500, SIZE, Trust.UNVOUCHED)]
    assert report.voucher == "the checkpoint of 500 entries in note-500"


CHANGE = "UPDATE entries SET body = CAST(replace(body, 'agent-300', 'agent-30x') AS BLOB) WHERE seq = 300"
REWRITE = "UPDATE entries SET leaf = zeroblob(32) WHERE seq = 300"


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ([CHANGE], [(0, 300, "vouched"), (300, 301, "changed"), (301, 600, "vouched")]),
        (
            ["DELETE FROM entries WHERE seq >= 550"],
            [(0, 500, "vouched"), (500, 550, "unvouched"), (550, 600, "missing")],
        ),
        (["DELETE FROM entries WHERE seq >= 50"], [(0, 50, "unvouched"), (50, 600, "missing")]),
    ],
)
def test_what_was_done_is_told_apart(
    kept: tuple[Path, list[Kept]], tmp_path: Path, statements: list[str], expected: list[tuple[int, int, str]]
) -> None:
    """A changed entry, and a tail that was cut off, are told from what is still as it was."""
    path, notes = kept
    report = verify_file(changed(path, tmp_path, *statements), kept=notes)
    assert not report.sound
    assert trusted(report) == [(first, end, Trust(trust)) for first, end, trust in expected]


def test_a_rewritten_leaf_is_told_by_its_tile(kept: tuple[Path, list[Kept]], tmp_path: Path) -> None:
    """Whoever changes leaves as well is betrayed by the hash of the tile, which fits the checkpoints."""
    path, notes = kept
    report = verify_file(changed(path, tmp_path, REWRITE), kept=notes)
    assert report.voucher == "the checkpoint of 600 entries in note-600"
    assert trusted(report) == [(0, 256, Trust.VOUCHED), (256, 512, Trust.CHANGED), (512, 600, Trust.VOUCHED)]


def test_a_rewritten_tree_is_trusted_up_to_the_last_checkpoint_that_fits(
    kept: tuple[Path, list[Kept]], tmp_path: Path
) -> None:
    """If the tile's hash is changed, too, the checkpoint before is all that is left to vouch for anything."""
    path, notes = kept
    report = verify_file(changed(path, tmp_path, REWRITE, "UPDATE nodes SET hash = zeroblob(32)"), kept=notes)
    assert report.voucher == "the checkpoint of 100 entries in note-100"
    assert {trust for first, _, trust in trusted(report) if first >= 100} == {Trust.DOUBTFUL, Trust.CHANGED}


def exported(path: Path, file: Path, edit: Callable[[list[str]], list[str]] = list) -> Path:
    """Export a ledger as the command does, change the lines, and write them."""
    found = offline.read_file(path, lambda connection: records.records(connection, -1, SIZE))
    stored = [{"entry": decode(each.body), **personal_beside(each.members, each.personal)} for each in found]
    events = [Event(each.seq, each.members, "urn:x", beside) for each, beside in zip(found, stored, strict=True)]
    lines = edit([FORMATS["jsonl"].line(event) for event in events])
    data = "".join(f"{line}\n" for line in lines).encode()
    file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)
    return file


@pytest.mark.parametrize("name", ["export.jsonl", "export.jsonl.gz"])
def test_an_export_comes_to_the_same(kept: tuple[Path, list[Kept]], tmp_path: Path, name: str) -> None:
    """The same size, root and trust as the database, whatever characters its entries hold."""
    path, notes = kept
    report, from_database = verify_file(exported(path, tmp_path / name), kept=notes), verify_file(path, kept=notes)
    assert report.problems == ()
    assert (report.size, report.root) == (from_database.size, from_database.root)
    assert trusted(report) == trusted(from_database)


def test_an_export_that_was_killed_and_went_on(kept: tuple[Path, list[Kept]], tmp_path: Path) -> None:
    """Torn lines and entries that came again are no problem; one that came again and differs is."""
    path, notes = kept
    again = exported(path, tmp_path / "a", lambda lines: [*lines[:300], lines[300][:50], *lines[250:]])
    assert verify_file(again, kept=notes).problems == ()
    differs = exported(
        path, tmp_path / "b", lambda lines: [*lines[:300], lines[250].replace("agent-250", "x"), *lines[300:]]
    )
    assert verify_file(differs).problems == ("entry 250 is there more than once, and differs",)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda lines: lines[:5] + lines[6:], "entry 5 is missing"),
        (lambda lines: [*lines[:5], "{}", "rubbish", "\x00", *lines[6:]], "entry 5 is missing"),
        (lambda lines: [lines[0].replace('"agent-0"', '"agent-1"'), *lines[1:]], "has another root"),
        (lambda lines: [lines[0].replace('{"agent"', '{"agent":"eve","agent"'), *lines[1:]], "are not an entry"),
        (lambda lines: [lines[0].replace('"v":1', '"v": 1'), *lines[1:]], "are not an entry"),
        (lambda lines: [lines[0].replace('"v":1', '"v":1e0'), *lines[1:]], "are not an entry"),
        (lambda lines: lines[:-1], "is of more entries than there are"),
        (lambda lines: [*lines, lines[-1].replace('"seq":599', '"seq":1000000000000000')], "missing"),
        (lambda lines: [lines[0].replace('"seq":0', '"seq":-7'), *lines], "entry -7 is out of place"),
    ],
)
def test_an_export_that_was_changed(
    kept: tuple[Path, list[Kept]], tmp_path: Path, edit: Callable[[list[str]], list[str]], words: str
) -> None:
    """Each change of a line is found, and named."""
    path, notes = kept
    report = verify_file(exported(path, tmp_path / "export", edit), kept=notes)
    assert any(words in problem for problem in report.problems), report.problems


def test_what_is_no_export(tmp_path: Path) -> None:
    """A file without any entry, or one whose compression is cut off, is an error and no report."""
    (tmp_path / "text").write_text("hello\n" * 100)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(random.Random(1).randbytes(100_000))[:5000])
    for name in ("text", "cut.gz"):
        with pytest.raises(Unavailable):
            verify_file(tmp_path / name)


def test_the_number_of_processes_changes_nothing(kept: tuple[Path, list[Kept]], tmp_path: Path) -> None:
    """Two processes find exactly what one finds, in a database and in an export."""
    path, notes = kept
    damaged = changed(path, tmp_path, CHANGE, "UPDATE entries SET agent = 'x' WHERE seq % 50 = 0")
    for subject in (damaged, exported(path, tmp_path / "export", lambda lines: lines[:200] + lines[210:])):
        one, two = (verify_file(subject, kept=notes, processes=number) for number in (1, 2))
        assert one == two
        assert not one.sound
