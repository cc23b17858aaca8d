from __future__ import annotations

import json
import os
import resource
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.anchors.file import TAIL, FileAnchor
from broker.core.errors import AnchorFailed, Code
from tests.support.anchors import GrowingLog
from tests.support.fakes import FakeClock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file will be."""
    return tmp_path / "anchor.jsonl"


@pytest.fixture
async def anchor(path: Path) -> AsyncIterator[FileAnchor]:
    """A file anchor."""
    made = another(path)
    yield made
    await made.close()


@pytest.fixture
def log() -> GrowingLog:
    """A ledger's tree."""
    return GrowingLog()


def another(path: Path) -> FileAnchor:
    """Return one as a later process has it."""
    return FileAnchor(path, clock=FakeClock(), timeout_seconds=30)


async def put(anchor: FileAnchor, log: GrowingLog, *, entries: int = 1) -> str:
    """Place one more checkpoint; return its note."""
    checkpoint = log.grow(entries)
    await anchor.place(checkpoint, log.prove(checkpoint.size))
    return checkpoint.note


def notes(path: Path) -> list[str]:
    """Return the notes of all complete lines, as an auditor would read them."""
    found = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            found.append(json.loads(line)["note"])
        except ValueError:
            continue
    return found


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size: a write is cut short, and the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_there_is_nothing_before_the_first(anchor: FileAnchor, path: Path) -> None:
    """Asking makes no file."""
    assert await anchor.latest() is None
    assert not path.exists()


async def test_a_line_for_each_checkpoint(anchor: FileAnchor, path: Path, log: GrowingLog) -> None:
    """The notes as they were signed, oldest first; anybody may read them, nobody else may write."""
    placed = [await put(anchor, log) for _ in range(3)]
    assert notes(path) == placed
    assert await anchor.latest() == placed[-1]
    assert await another(path).latest() == placed[-1]
    assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0


async def test_the_receipt_says_where_it_stands(anchor: FileAnchor, path: Path, log: GrowingLog) -> None:
    """So that an auditor finds it again."""
    await put(anchor, log)
    checkpoint = log.grow()
    placed = await anchor.place(checkpoint, log.prove(checkpoint.size))
    start, end = (int(word) for word in placed.receipt.rpartition("bytes ")[2].split(" to "))
    assert json.loads(path.read_bytes()[start:end])["note"] == checkpoint.note
    assert end == path.stat().st_size


async def test_a_torn_line_is_skipped_and_left_alone(path: Path, log: GrowingLog) -> None:
    """What a crash left in the middle of a write costs no later checkpoint, and no earlier one."""
    first = another(path)
    kept = await put(first, log)
    whole = path.read_bytes()
    for cut in (1, 20, len(whole) - 2):
        path.write_bytes(whole + whole[:cut])
        anchor = another(path)
        assert await anchor.latest() == kept
        later = await put(anchor, log)
        assert await anchor.latest() == later
        assert notes(path) == [kept, later]
        assert path.read_bytes().startswith(whole + whole[:cut])


async def test_a_full_disk(anchor: FileAnchor, path: Path, log: GrowingLog) -> None:
    """The attempt fails with what has happened, half a line stays, and once there is room the next one is whole."""
    kept = await put(anchor, log)
    with room_for(path.stat().st_size + 30), pytest.raises(AnchorFailed) as failed:
        await put(anchor, log)
    assert failed.value.code is Code.ANCHOR_UNAVAILABLE
    assert await anchor.latest() == kept
    later = await put(anchor, log)
    assert notes(path) == [kept, later]


async def test_a_file_that_was_cut(anchor: FileAnchor, path: Path, log: GrowingLog) -> None:
    """It is said once; then the file is taken as it is, so that the evidence goes on."""
    for _ in range(3):
        await put(anchor, log)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(AnchorFailed, match="anchor_lost") as failed:
        await put(anchor, log)
    assert "was cut from" in failed.value.public
    later = await put(anchor, log)
    assert await anchor.latest() == later


async def test_a_file_that_was_replaced(anchor: FileAnchor, path: Path, log: GrowingLog) -> None:
    """By a longer copy of itself, too."""
    await put(anchor, log)
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes() * 2)
    copy.replace(path)
    with pytest.raises(AnchorFailed, match="anchor_lost") as failed:
        await put(anchor, log)
    assert "replaced" in failed.value.public
    await put(anchor, log)


async def test_a_file_that_was_removed(anchor: FileAnchor, path: Path, log: GrowingLog) -> None:
    """It is not made anew without a word."""
    await put(anchor, log)
    path.unlink()
    with pytest.raises(AnchorFailed, match="anchor_lost"):
        await put(anchor, log)
    assert not path.exists()
    assert [await put(anchor, log)] == notes(path)


async def test_what_others_append_is_no_loss(anchor: FileAnchor, path: Path, log: GrowingLog) -> None:
    """Two writers of one file see each other's last line."""
    await put(anchor, log)
    theirs = await put(another(path), log)
    assert await anchor.latest() == theirs
    await put(anchor, log)
    assert len(notes(path)) == 3


@pytest.mark.parametrize("junk", [b"hello\nworld\nagain\n", b'{"note": 1}\n' * 3, b"\n\n\n", b"\xff\xfe\n" * 5])
async def test_a_file_that_is_something_else(anchor: FileAnchor, path: Path, junk: bytes) -> None:
    """What holds lines and no checkpoint was never ours, or is no longer."""
    path.write_bytes(junk)
    with pytest.raises(AnchorFailed, match="anchor_inconsistent"):
        await anchor.latest()


async def test_the_end_of_a_long_file_is_enough(anchor: FileAnchor, path: Path, log: GrowingLog) -> None:
    """However long it is, and wherever its tail begins; only the end is read."""
    with path.open("wb") as file:
        file.truncate(TAIL * 40)
    with path.open("ab") as file:
        file.write(b"\n")
    later = await put(anchor, log)
    assert await anchor.latest() == later


async def test_junk_that_hides_the_last_line(anchor: FileAnchor, path: Path, log: GrowingLog) -> None:
    """More of it than is read is not taken for nothing."""
    await put(anchor, log)
    with path.open("ab") as file:
        file.write(b"x\n" * TAIL)
    with pytest.raises(AnchorFailed, match="anchor_inconsistent"):
        await anchor.latest()


async def test_what_is_no_regular_file(tmp_path: Path, log: GrowingLog) -> None:
    """Neither a pipe, which would hang, nor a device, nor a folder, nor a place that does not exist."""
    os.mkfifo(tmp_path / "pipe")
    for place, code in (
        (tmp_path / "pipe", Code.ANCHOR_REFUSED),
        (Path("/dev/null"), Code.ANCHOR_REFUSED),
        (tmp_path, Code.ANCHOR_REFUSED),
        (tmp_path / "nowhere" / "file", Code.ANCHOR_UNAVAILABLE),
    ):
        anchor = another(place)
        with pytest.raises(AnchorFailed) as failed:
            await put(anchor, log)
        assert failed.value.code is code, place
        await anchor.close()


async def test_the_disk_is_synced_before_it_is_said(
    anchor: FileAnchor, path: Path, log: GrowingLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync that fails is a placement that failed."""

    def broken(_file: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(AnchorFailed, match="anchor_unavailable"):
        await put(anchor, log)
    monkeypatch.undo()
    await put(anchor, log)
