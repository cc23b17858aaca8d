"""Archives: whole tiles of old entries, verified by themselves and as one sequence with what is left in the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gzip
import os
import random
import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.core.change import AddRule, Change, RemoveEntries
from broker.core.entry import Kind, entry
from broker.core.errors import Code, Unavailable
from broker.core.rules import Rule
from broker.core.selector import Selector
from broker.core.trust import Trust
from broker.ledger.keeping import archiving, retention
from broker.ledger.keeping.archive_file import Archive, archives_in
from broker.ledger.keeping.archiving import Made
from broker.ledger.reading import offline
from broker.ledger.verify import Kept, Report, verify_file
from tests.support.archives import DAY, LATER, SIZE, fill, open_note, remove, sign
from tests.support.ledgers import NOW, TTL, Bench, FixedClock, issued, opened


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed ledger of 1000 old entries."""
    return asyncio.run(fill(tmp_path_factory.mktemp("made") / "ledger.db"))


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copy(made, tmp_path / "ledger.db"))


@pytest.fixture
async def bench(path: Path) -> AsyncIterator[Bench]:
    """The copy, opened long afterwards."""
    async with opened(path, clock=FixedClock(LATER), sign=sign) as bench:
        yield bench


def archived(path: Path, folder: Path, *, newest: int = 100) -> list[Made]:
    """Write all archives that can be written."""
    return list(archiving.archives(path, folder, NOW + DAY, LATER, newest=newest))


def spans(report: Report) -> list[tuple[int, int, Trust]]:
    """Return what a report says of entries."""
    return [(span.first, span.end, span.trust) for span in report.spans]


def test_an_archive_is_verified_by_itself(path: Path, tmp_path: Path) -> None:
    """The file alone: its entries, its checkpoints, and the proof that leads to the one that covers it."""
    (one,) = archived(path, tmp_path / "old")
    assert (one.first, one.end, one.covered) == (0, 768, True)
    assert one.path.stat().st_mode & 0o777 == 0o600
    report = verify_file(one.path, open_note=open_note)
    assert report.problems == ()
    assert (report.size, report.entries) == (768, 768)
    assert report.checkpoints == report.signatures >= 3
    assert report.voucher == f"the checkpoint of {SIZE} entries that covers {one.path.name}"
    assert spans(report) == [(0, 768, Trust.VOUCHED)]
    assert verify_file(path, archives=[one.path], open_note=open_note).problems == ()
    assert [path.name for path in (tmp_path / "old").iterdir()] == [one.path.name]


async def test_across_the_border(bench: Bench, tmp_path: Path) -> None:
    """What is left, alone and together with the archive, is one sound sequence; the record says where the rest is."""
    whole = verify_file(bench.path, open_note=open_note)
    await remove(bench, tmp_path / "old")
    await bench.ledger.checkpoint()
    (file,) = archives_in(tmp_path / "old")
    alone = verify_file(bench.path, open_note=open_note)
    assert alone.problems == ()
    assert (alone.archived, alone.removed_at) == (768, SIZE)
    assert (alone.entries, alone.size) == (SIZE + 1 - 768, SIZE + 1)
    assert spans(alone) == [(0, 768, Trust.ARCHIVED), (768, SIZE + 1, Trust.VOUCHED)]
    together = verify_file(bench.path, archives=[file], open_note=open_note)
    assert together.problems == ()
    assert (together.archived, together.entries, together.epoch) == (0, SIZE + 1, whole.epoch)
    assert together.root == alone.root
    assert spans(together) == [(0, SIZE + 1, Trust.VOUCHED)]
    record = await bench.ledger.record(SIZE)
    assert record is not None
    told = record.members
    assert (told["kind"], told["first"], told["end"], told["by"]) == ("ledger.archived", 0, 768, "os:ann")
    assert told["digest"] == archiving.digest_of(file).hex()


async def test_the_broker_goes_on(bench: Bench, tmp_path: Path) -> None:
    """After removal, the ledger opens, issues, proves and is archived again; nothing is done twice."""
    await remove(bench, tmp_path / "old")
    assert await bench.ledger.record(767) is None
    assert await bench.ledger.record(768) is not None
    assert (await bench.ledger.records(after=-1, limit=1))[0].seq == 768
    await bench.issue("tok_new", at=LATER)
    head = await bench.ledger.head()
    assert await bench.ledger.inclusion(head.size - 1, head.size)
    assert await bench.ledger.consistency(512, head.size)
    await bench.ledger.close()
    async with opened(bench.path, clock=FixedClock(LATER), sign=sign) as again:
        await again.issue("tok_newer", at=LATER)
        await remove(again, tmp_path / "old")
        assert len(archives_in(tmp_path / "old")) == 1
        assert (await again.verified()).archived == 768


def test_archiving_again_is_archiving_once(path: Path, tmp_path: Path) -> None:
    """The same file, byte for byte; and one that is there is not written again."""
    (one,) = archived(path, tmp_path / "old")
    before = one.path.stat()
    assert archived(path, tmp_path / "old") == [one]
    assert one.path.stat() == before
    (other,) = archived(path, tmp_path / "other")
    assert other.digest == one.digest


async def test_a_ledger_that_was_archived_is_removed_later(bench: Bench, tmp_path: Path) -> None:
    """What a first run only wrote, a second one verifies and removes."""
    archived(bench.path, tmp_path / "old")
    await remove(bench, tmp_path / "old")
    assert offline.read_file(bench.path, retention.first_entry) == 768


async def test_nothing_that_lives_is_archived(path: Path, tmp_path: Path) -> None:
    """A live token, a young entry, a live rule, the newest entries: each holds the border at its tile."""

    def border(before: float, now: float, newest: int) -> int:
        return offline.read_file(path, lambda connection: retention.border(connection, before, now, newest=newest))

    assert border(NOW + DAY, LATER, 0) == 768
    assert border(NOW + DAY, LATER, 500) == 256
    assert border(NOW + DAY, LATER, retention.NEWEST) == 0
    assert border(NOW - DAY, LATER, 0) == 0, "nothing is that old"
    assert border(NOW + DAY, NOW + TTL - 1, 0) == 0, "the tokens are alive"
    async with opened(path, clock=FixedClock(LATER)) as bench:
        await bench.ledger.commit(issued("tok_old", bench.epoch, at=NOW, expires_at=int(LATER) + 60))
        rule = Rule("rule_late", Selector(agent="a"), bench.epoch + 1, LATER, "op", "why")
        record = entry(Kind.RULE_ADDED, NOW, ref=rule.id, number=rule.number, selector={"agent": "a"})
        await bench.ledger.commit(Change(record, writes=(AddRule(rule),)))
        assert border(LATER + DAY, LATER, 0) == 768
        for _ in range(300):
            await bench.issue("tok_more", at=NOW)
        assert border(LATER + DAY, LATER, 0) == 768, "a live token is at 1000, a live rule at 1001"
        assert border(LATER + DAY, LATER + 365 * DAY, 0) == 1280, "and then they are not"


async def test_removing_the_wrong_entries_changes_nothing(bench: Bench) -> None:
    """A range that is not the first one, or not whole, is refused, and the broker goes on."""
    for first, end in ((256, 512), (0, SIZE + 256)):
        record = entry(Kind.LEDGER_ARCHIVED, LATER, first=first, end=end)
        with pytest.raises(Unavailable):
            await bench.ledger.commit(Change(record, writes=(RemoveEntries(first, end),)))
    await bench.issue("tok_new", at=LATER)
    assert (await bench.verified()).entries == SIZE + 1


async def test_without_a_checkpoint_nothing_is_removed(tmp_path: Path) -> None:
    """An archive that no signed checkpoint covers is written, and its entries stay."""
    async with opened(tmp_path / "ledger.db") as bench:
        for number in range(300):
            await bench.issue(f"tok_{number}")
        (one,) = archived(bench.path, tmp_path / "old", newest=0)
        assert not one.covered
        with pytest.raises(Unavailable, match="ledger_unavailable"):
            archiving.removal(one, "op", "why", LATER)
    report = verify_file(one.path)
    assert report.sound
    assert spans(report) == [(0, 256, Trust.UNVOUCHED)]


def rewritten(file: Path, old: bytes, new: bytes) -> None:
    """Change the content of an archive."""
    text = gzip.decompress(file.read_bytes())
    assert old in text
    file.write_bytes(gzip.compress(text.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'"agent-300"', b'"agent-3xx"', "the header of"),
        (b'"seq":300,', b'"seq":9999,', "entry 300 is missing"),
        (b'"root":"', b'"root":"AAAA', None),
        (b'"first":0', b'"first":1', None),
        (b'"end":768', b'"end":1024', "is of more entries than there are"),
        (b"signed:100:", b"forged:100:", "has no good signature"),
    ],
)
def test_an_archive_that_was_changed(path: Path, tmp_path: Path, old: bytes, new: bytes, words: str | None) -> None:
    """It is found by verifying, and no longer taken for the archive of these entries."""
    (one,) = archived(path, tmp_path / "old")
    rewritten(one.path, old, new)
    if words is None:
        with contextlib.suppress(Unavailable):
            assert not verify_file(one.path, open_note=open_note).sound
    else:
        report = verify_file(one.path, open_note=open_note)
        assert any(words in problem for problem in report.problems), report.problems
    if not words or "signature" not in words:
        with pytest.raises(Unavailable):
            archived(path, tmp_path / "old")


async def test_any_damage_of_an_archive_is_found(bench: Bench, tmp_path: Path) -> None:
    """Bits flipped, bytes removed or put in, lines swapped: with the ledger that it was taken from, each is found."""
    await remove(bench, tmp_path / "old")
    (file,) = archives_in(tmp_path / "old")
    content, choice = gzip.decompress(file.read_bytes()), random.Random(11)
    for turn in range(60):
        damaged = bytearray(content)
        place, lines = choice.randrange(len(content)), content.split(b"\n")
        match turn % 4:
            case 0:
                damaged[place] ^= 1 << choice.randrange(8)
            case 1:
                del damaged[place : place + choice.randrange(1, 900)]
            case 2:
                damaged[place:place] = choice.randbytes(choice.randrange(1, 50))
            case _:
                one, other = choice.sample(range(len(lines) - 1), 2)
                lines[one], lines[other] = lines[other], lines[one]
                damaged = bytearray(b"\n".join(lines))
        file.write_bytes(gzip.compress(bytes(damaged), compresslevel=1))
        with contextlib.suppress(Unavailable):
            assert not verify_file(bench.path, archives=[file], open_note=open_note).sound, turn


async def test_what_is_personal_goes_along(bench: Bench, tmp_path: Path) -> None:
    """It must be what the entries promise; if it is gone, an entry must say that it was erased."""
    await remove(bench, tmp_path / "old")
    (file,) = archives_in(tmp_path / "old")
    whole = file.read_bytes()
    rewritten(file, "caf\u00e9".encode(), b"tea!!")
    report = verify_file(bench.path, archives=[file], open_note=open_note)
    assert report.problem_count == 1
    assert report.problems[0].endswith("its personal members are not those that the entry holds the commitment to")
    assert verify_file(file).problem_count == 1
    file.write_bytes(whole)
    rewritten(file, b',"personal":{"salt"', b',"personas":{"salt"')
    report = verify_file(bench.path, archives=[file], open_note=open_note)
    assert any("no entry says that they were erased" in problem for problem in report.problems)
    assert verify_file(file).sound, "the entry that says so may be elsewhere"


def test_archives_that_overlap(path: Path, tmp_path: Path) -> None:
    """Each is verified, and what several have counts once."""
    (large,) = archived(path, tmp_path / "large")
    (small,) = archived(path, tmp_path / "small", newest=600)
    assert (small.end, large.end) == (256, 768)
    report = verify_file(large.path, archives=[small.path, large.path], open_note=open_note)
    assert report.problems == ()
    assert spans(report) == [(0, 768, Trust.VOUCHED)]
    rewritten(small.path, b'"agent-200"', b'"agent-2xx"')
    assert not verify_file(path, archives=[large.path, small.path], open_note=open_note).sound


def test_a_proof_that_was_changed(path: Path, tmp_path: Path) -> None:
    """It is found by verifying; archiving again makes the header anew, since the entries are what they were."""
    (one,) = archived(path, tmp_path / "old")
    rewritten(one.path, b'"proof":["', b'"proof":["AAAA", "')
    report = verify_file(one.path, open_note=open_note)
    assert report.problems == (f"the proof in {one.path.name} does not lead to the checkpoint that it was made for",)
    assert archived(path, tmp_path / "old") == [one]
    assert verify_file(one.path, open_note=open_note).sound


async def test_a_record_of_archiving_that_makes_no_sense(bench: Bench) -> None:
    """It is no reason to stop verifying; and it excuses no entry that is missing without it."""
    for end in (None, "512", 2**50, True):
        await bench.ledger.commit(Change(entry(Kind.LEDGER_ARCHIVED, LATER, end=end)))
    assert verify_file(bench.path).problems == ()
    with contextlib.closing(sqlite3.connect(bench.path, isolation_level=None)) as database:
        database.execute("DELETE FROM entries WHERE seq = 3")
    assert "entry 3 is missing" in verify_file(bench.path).problems


def test_an_archive_of_another_ledger(path: Path, tmp_path: Path) -> None:
    """Its entries may be sound; they are not this ledger's."""
    (one,) = archived(path, tmp_path / "old")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("UPDATE meta SET ledger = 'another'")
    report = verify_file(path, archives=[one.path])
    assert f"{one.path.name} is of another ledger" in report.problems


def test_a_hole_between_archives_is_named(path: Path, tmp_path: Path) -> None:
    """Kept checkpoints cannot be compared across it; entries on both sides are still checked."""
    (one,) = archived(path, tmp_path / "old")
    rewritten(one.path, b'"seq":300,', b'"gone":300,')
    report = verify_file(one.path, kept=[Kept(100, bytes(32), "kept")])
    assert "entry 300 is missing" in report.problems
    assert report.root is None


def test_what_is_no_archive(path: Path, tmp_path: Path) -> None:
    """A torn file, a file of something else, and no file are errors, not reports."""
    (one,) = archived(path, tmp_path / "old")
    whole = one.path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"rubbish", gzip.compress(b"{}")):
        one.path.write_bytes(content)
        with pytest.raises(Unavailable):
            verify_file(path, archives=[one.path])
    assert Archive.read(path) is None


def test_a_full_disk(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left that looks like an archive, and the reason is told."""

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable) as caught:
        archived(path, tmp_path / "old")
    assert caught.value.code is Code.LEDGER_UNAVAILABLE
    assert "the disk is full; nothing was removed" in caught.value.public
    assert list((tmp_path / "old").iterdir()) == []


def test_one_process_at_a_time(path: Path, tmp_path: Path) -> None:
    """A second one is told, and writes nothing."""
    with archiving.only_one(tmp_path / "old"), pytest.raises(Unavailable, match="ledger_unavailable"):
        archived(path, tmp_path / "old")


def test_what_a_crash_left_is_written_over(path: Path, tmp_path: Path) -> None:
    """The unfinished file of a run that was killed is no archive, and does not stop the next run."""
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / ".entries-000000000000-000000000768.jsonl.gz.new").write_bytes(b"half")
    (one,) = archived(path, folder)
    assert [each.name for each in folder.iterdir()] == [one.path.name]
