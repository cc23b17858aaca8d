"""Processes that share a ledger file and die, or find that it is not what it was: nothing is lost, nothing built on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from broker.core.errors import Code, EpochMoved, Unavailable
from broker.core.rules import Rule
from broker.core.selector import Selector
from broker.ledger import SqlLedger
from broker.ledger.sharing.board import Word
from broker.ledger.sharing.family import Family
from broker.ledger.sharing.file_premises import FilePremises
from broker.ledger.verify import verify_file
from tests.support.ledgers import NOW, Bench, added, family_bench, family_of, noted, opened

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
DEATHS = ("announced", "committed", "copied")


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Sequence[Bench]]:
    """Two of a family with an entry of each."""
    async with family_bench(tmp_path / "ledger.db") as benches:
        for number, bench in enumerate(benches):
            await bench.issue(f"tok_{number}")
        yield benches


def premises(bench: Bench) -> FilePremises:
    """Return what a writer of a file stands on."""
    found = bench.ledger._premises
    assert isinstance(found, FilePremises)
    return found


@contextlib.contextmanager
def failing_commit(bench: Bench, *, applied: bool) -> Iterator[None]:
    """Let every COMMIT of one process raise: before it did anything, or after it did everything."""
    dialect = bench.ledger._writer._engine.dialect
    original = dialect.do_commit

    def commit(connection: Any) -> None:  # noqa: ANN401 - the driver's own type
        if applied:
            original(connection)
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error

    dialect.do_commit = commit  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        dialect.do_commit = original  # type: ignore[method-assign]


async def refused(bench: Bench) -> None:
    """Expect that a process writes nothing any more."""
    with pytest.raises(Unavailable) as caught:
        await bench.ledger.commit(noted())
    assert caught.value.code is Code.LEDGER_CORRUPT


# --- COMMIT raises, and others go on --------------------------------------------------------------------------------


@pytest.mark.parametrize("applied", [False, True])
async def test_a_batch_in_doubt_is_settled_although_others_wrote_since(pair: Sequence[Bench], *, applied: bool) -> None:
    """What was applied is in force at both, what was not can be written, whatever the other one committed meanwhile."""
    one, other = pair
    rule = Rule("rule_1", Selector(agent="a"), 1, NOW, "op", "x")
    settle = one.ledger._writer.settle
    one.ledger._writer.settle = lambda: None  # type: ignore[method-assign]
    with failing_commit(one, applied=applied), pytest.raises(Unavailable):
        await one.ledger.commit(added(rule))
    one.ledger._writer.settle = settle  # type: ignore[method-assign]
    await other.ledger.commit(noted())
    assert other.epoch == int(applied)
    if applied:
        with pytest.raises(EpochMoved):
            await one.ledger.commit(added(rule))
    else:
        await one.ledger.commit(added(rule))
    await other.ledger.freshness.ensure()
    for bench in pair:
        assert bench.epoch == 1
    assert (await one.verified()).epoch == 1


async def test_a_change_that_was_announced_and_not_made_keeps_nobody_from_answering(pair: Sequence[Bench]) -> None:
    """It costs looks at the head, until anybody takes a turn."""
    one, other = pair
    board = premises(one)._board
    board[Word.ANNOUNCED] = 10**6
    for bench in pair:
        await bench.ledger.freshness.ensure()
    await other.ledger.commit(noted())
    assert board[Word.ANNOUNCED] <= one.ledger.size + 1
    await one.verified()


async def test_who_cannot_look_does_not_answer(pair: Sequence[Bench]) -> None:
    """No answer is better than one by old rules; with nothing announced, nothing has to be looked at."""
    one, other = pair
    other.ledger._reader._closed = True
    await other.ledger.freshness.ensure()
    await one.revoke(Selector(agent="a"))
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            await other.ledger.freshness.ensure()
        assert caught.value.code is Code.RULES_STALE
    other.ledger._reader._closed = False
    await other.ledger.freshness.ensure()
    assert other.epoch == 1


# --- the file is not what the family wrote --------------------------------------------------------------------------


def swap(path: Path) -> None:
    """Put another ledger in the place of the file."""
    other = path.with_name("other.db")
    SqlLedger.create(other, NOW)
    other.replace(path)


def overwrite(path: Path) -> None:
    """Copy another ledger over the file, which stays the same file."""
    other = path.with_name("other.db")
    SqlLedger.create(other, NOW)
    shutil.copyfile(other, path)


def remove_log(path: Path) -> None:
    """Delete the log, which holds what was acknowledged last."""
    path.with_name(f"{path.name}-wal").unlink()


@pytest.mark.parametrize("damage", [swap, overwrite, remove_log, lambda path: os.truncate(path, 4096)])
async def test_files_that_a_stranger_changed_are_refused_by_all(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Each notices by itself; that one of them found it does not make it good for the others, nor for who joins."""
    path = tmp_path / "ledger.db"
    with family_of(path) as family:
        async with opened(path, family=family) as one, opened(path, family=family) as other:
            await one.issue("tok_1")
            await other.issue("tok_2")
            damage(path)
            await refused(one)
            await refused(other)
            await refused(one)
            with pytest.raises(Unavailable):
                async with opened(path, family=family):
                    pass


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE head SET size = size + 1",
        "UPDATE head SET epoch = epoch + 1",
        "UPDATE head SET epoch = epoch + 1, size = size + 1, changed = size + 1",
        "UPDATE head SET changed = size + 5",
        "UPDATE head SET frontier = zeroblob(32)",
        "DELETE FROM head",
        """
        INSERT INTO entries (seq, leaf, kind, at, body) VALUES (2, zeroblob(32), 'x', 1, '{}');
        UPDATE head SET size = 3, frontier = zeroblob(64)
        """,
    ],
)
async def test_a_head_that_does_not_continue_the_known_one_is_refused_by_all(tmp_path: Path, sql: str) -> None:
    """A sibling gone wrong, or a stranger who went through SQLite: nobody builds on it."""
    path = tmp_path / "ledger.db"
    async with family_bench(path) as pair:
        for number, bench in enumerate(pair):
            await bench.issue(f"tok_{number}")
        with contextlib.closing(sqlite3.connect(path)) as stranger, stranger:
            stranger.executescript(sql)
        for bench in pair:
            await refused(bench)


async def test_rules_that_are_counted_and_missing_are_refused(pair: Sequence[Bench]) -> None:
    """By who writes, and by who looks: its epoch would never be reached, or a token live that is dead."""
    one, other = pair
    await one.revoke(Selector(agent="a"))
    with contextlib.closing(sqlite3.connect(one.path)) as stranger, stranger:
        stranger.execute("DELETE FROM rules")
    with pytest.raises(Unavailable) as caught:
        await other.ledger.freshness.ensure()
    assert caught.value.code is Code.RULES_STALE
    await refused(other)


async def test_a_family_whose_lock_file_was_taken_over_writes_no_more(pair: Sequence[Bench]) -> None:
    """Each of them sees by its next beat that another host has it."""
    Path(f"{pair[0].path}.lock").write_text('{"token":"t","boot":"b","host":"elsewhere","pid":7,"at":1.0}')
    for bench in pair:
        premises(bench)._lock.beat()
        await refused(bench)


# --- processes die ---------------------------------------------------------------------------------------------------


async def test_killed_processes_of_a_family_lose_nothing_they_acknowledged(tmp_path: Path) -> None:
    """At any moment, and at the worst ones, while the others go on: one tree, and all that was acknowledged in it."""
    path, acknowledged = tmp_path / "ledger.db", set[str]()
    with family_of(path) as family:
        deaths: list[str | None] = [*DEATHS, *DEATHS, None, None]
        random.shuffle(deaths)
        with running(path, family) as (survivor, output):
            for death in deaths:
                acknowledged |= await asyncio.to_thread(run_and_die, path, family, death)
            assert survivor.poll() is None, "the death of another one ends nobody"
            survivor.kill()
            await asyncio.to_thread(survivor.wait)
            survived = acknowledged_by(output)
        acknowledged |= survived
        async with opened(path, family=family) as bench:
            await bench.ledger.freshness.ensure()
            await bench.issue("tok_last")
            report = await bench.verified()
            assert bench.epoch == report.epoch
    assert (await asyncio.to_thread(verify_file, path)).problems == ()
    with contextlib.closing(sqlite3.connect(path)) as database:
        recorded = {row[0] for row in database.execute("SELECT ref FROM entries")}
        rules = [row[0] for row in database.execute("SELECT number FROM rules ORDER BY number")]
    assert acknowledged <= recorded
    assert rules == list(range(1, report.epoch + 1))
    assert len(survived) > 100


@contextlib.contextmanager
def running(path: Path, family: Family, death: str | None = None) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run a process under load, as one of a family; yield it with the file of what it acknowledges. It is killed."""
    arguments = [str(path), *map(str, family.descriptors), *([] if death is None else [death])]
    module = [sys.executable, "-m", "tests.support.ledger_under_load", *arguments]
    with (
        tempfile.NamedTemporaryFile(dir=path.parent) as output,
        subprocess.Popen(module, cwd=ROOT, stdout=output, pass_fds=family.descriptors) as process,
    ):
        try:
            yield process, Path(output.name)
        finally:
            process.kill()


def acknowledged_by(output: Path) -> set[str]:
    """Return what was acknowledged; the last line may be half written."""
    return {line for line in output.read_text().split("\n")[:-1] if line != "ready"}


def run_and_die(path: Path, family: Family, death: str | None) -> set[str]:
    """Run a process until it dies by itself, or is killed after some time of work."""
    with running(path, family, death) as (process, output):
        if death is None:
            deadline = time.monotonic() + PATIENCE
            while not output.stat().st_size and time.monotonic() < deadline:
                time.sleep(0.02)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=random.uniform(0.02, 0.4))
            process.kill()
        assert process.wait(timeout=PATIENCE) == -signal.SIGKILL
        return acknowledged_by(output)
