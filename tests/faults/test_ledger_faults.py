"""A store that fails: nothing is half done, nothing acknowledged is lost, and work goes on when the fault is gone."""

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
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from broker.core.change import AgentAbsent, Change, IdempotencyFresh, PutAgent, RateWithin, Receipt, Unused
from broker.core.errors import Code, EpochMoved, GuardFailed, Unavailable
from broker.core.rules import Block, Rule
from broker.core.selector import Selector
from broker.core.soundness import Fault
from broker.ledger import SqlLedger
from broker.ledger.verify import verify_file
from broker.ports import Revocations
from tests.support.ledgers import (
    NOW,
    Bench,
    FixedClock,
    added,
    digest,
    issued,
    lifted,
    noted,
    opened,
    outcomes,
    registered,
    removed,
    rotated,
    stored_key,
)

BIG = "x" * 60_000
ROOT = Path(__file__).parents[2]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """A ledger with one entry, impatient with locks; whatever is done to it, it verifies afterwards."""
    async with opened(tmp_path / "ledger.db", busy_seconds=0.05) as bench:
        await bench.issue("tok_first")
        yield bench
        await bench.verified()


def engine_of(bench: Bench) -> Engine:
    """Return the engine below the writer, where faults are injected."""
    return bench.ledger._writer._engine


@contextlib.asynccontextmanager
async def setting(bench: Bench, pragma: str) -> AsyncIterator[None]:
    """Impose a setting on the writing connection, and on each that is opened in its place."""
    engine = engine_of(bench)

    def impose(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own type
        connection.execute(pragma).close()

    await bench.ledger._group.run(lambda connection: connection.exec_driver_sql(pragma).close())
    event.listen(engine, "connect", impose)
    yield
    event.remove(engine, "connect", impose)


def disk_error() -> sqlite3.OperationalError:
    """Return the error that the driver raises when the disk fails."""
    error = sqlite3.OperationalError("disk I/O error in /secret/path")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    return error


@contextlib.contextmanager
def failing_commit(bench: Bench, *, applied: bool) -> Iterator[None]:
    """Let COMMIT raise: before it did anything, or after it did everything."""
    dialect = engine_of(bench).dialect
    original = dialect.do_commit

    def commit(connection: Any) -> None:  # noqa: ANN401 - the driver's own type
        if applied:
            original(connection)
        raise disk_error()

    dialect.do_commit = commit  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        dialect.do_commit = original  # type: ignore[method-assign]


async def unavailable(bench: Bench, change: Change, words: str, code: Code = Code.LEDGER_UNAVAILABLE) -> None:
    """Commit a change and expect that it cannot be made durable, for this reason."""
    with pytest.raises(Unavailable) as caught:
        await bench.ledger.commit(change)
    assert caught.value.code is code
    assert words in caught.value.public
    assert "/" not in caught.value.public
    assert bench.ledger.healthy() == caught.value.public


# --- the store refuses ----------------------------------------------------------------------------------------------


async def test_a_locked_database(bench: Bench) -> None:
    """While another process holds the lock, nothing is committed; afterwards it works again."""
    with contextlib.closing(sqlite3.connect(bench.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        await unavailable(bench, noted(), "locked")
        assert "locked" in (await bench.ledger.probe() or "")
        assert (await bench.ledger.head()).size == 1
        other.execute("ROLLBACK")
    assert await bench.ledger.probe_if_troubled() is None
    assert (await bench.ledger.commit(noted())).seq == 1


async def test_a_full_disk(bench: Bench) -> None:
    """When the disk is full, nothing is committed, reads go on, and it works again when there is room."""
    async with setting(bench, "PRAGMA max_page_count=1"):
        results = await outcomes(bench.ledger, [noted(text=BIG) for _ in range(5)])
        assert all(isinstance(result, Unavailable) and "full" in result.public for result in results)
        await unavailable(bench, noted(text=BIG), "full")
        assert (await bench.ledger.record_of("tok_first")) is not None
    assert (await bench.ledger.commit(noted(text=BIG))).seq == 1
    assert bench.ledger.healthy() is None


async def test_a_read_only_database(bench: Bench) -> None:
    """A database that became read-only refuses changes and probes alike, until it is writable."""
    async with setting(bench, "PRAGMA query_only=ON"):
        await unavailable(bench, noted(), "read-only")
        assert "read-only" in (await bench.ledger.probe() or "")
    assert await bench.ledger.probe() is None
    await bench.ledger.commit(noted())


async def test_revoking_while_the_store_is_down_keeps_the_pending_rule(bench: Bench) -> None:
    """A rule that cannot be written stays pending in memory; written later, it takes its number."""
    pending = Rule("rule_1", Selector(agent="mallory"), None, NOW, "op", "leaked")
    bench.revocations.rules.add(pending)
    async with setting(bench, "PRAGMA query_only=ON"):
        await unavailable(bench, added(replace(pending, number=1)), "read-only")
        assert bench.revocations.rules.get("rule_1") == pending
        assert bench.epoch == 0
    await bench.ledger.commit(added(replace(pending, number=1)))
    assert bench.epoch == 1
    assert len(bench.revocations.rules) == 1


# --- a failure at every step ----------------------------------------------------------------------------------------


def everything_at_once() -> list[Change]:
    """Return changes that touch every table, of which the last is refused by its guard."""
    block = Block("blk_1", Selector(agent="a"), 1, NOW, "op", "x")
    fresh = IdempotencyFresh("key", "print", "rule_1", int(NOW) + 60)
    return [
        added(Rule("rule_1", Selector(agent="a"), 1, NOW, "op", "x"), block, fresh),
        issued("tok_1", 1, Unused(digest("jti"), int(NOW) + 60, "assertion"), RateWithin("agent/a", 5, NOW)),
        lifted("blk_1"),
        registered("c", "one", AgentAbsent("c")),
        rotated(stored_key("1")),
        noted(AgentAbsent("b"), RateWithin("agent/a", 1, NOW)),
    ]


@pytest.mark.parametrize("step", range(30))
async def test_a_failure_at_any_statement_leaves_nothing(bench: Bench, step: int) -> None:
    """Wherever the transaction breaks, no change of the batch is applied, and the same batch works afterwards."""
    engine, seen = engine_of(bench), [0]

    def break_down(*_: object) -> None:
        seen[0] += 1
        if seen[0] == step + 1:
            raise disk_error()

    before = await bench.ledger.head()
    event.listen(engine, "before_cursor_execute", break_down)
    results = await outcomes(bench.ledger, everything_at_once())
    event.remove(engine, "before_cursor_execute", break_down)
    if seen[0] <= step:
        assert isinstance(results[0], Receipt)  # there is no such step: the batch went through
        return
    assert all(isinstance(result, Unavailable) for result in results)
    assert await bench.ledger.head() == before
    assert bench.epoch == 0
    results = await outcomes(bench.ledger, everything_at_once())
    assert [type(result) for result in results] == [Receipt] * 5 + [GuardFailed]
    assert bench.epoch == 1


# --- COMMIT itself raises -------------------------------------------------------------------------------------------


async def test_a_commit_that_fails_and_was_not_applied(bench: Bench) -> None:
    """The caller is told that it is not known; it was not applied, and the same change can be committed."""
    rule = Rule("rule_1", Selector(agent="a"), 1, NOW, "op", "x")
    with failing_commit(bench, applied=False):
        await unavailable(bench, added(rule), "not known")
    assert (await bench.ledger.head()).size == 1
    assert bench.epoch == 0
    assert (await bench.ledger.commit(added(rule))).seq == 1
    assert bench.epoch == 1


async def test_a_commit_that_fails_but_was_applied(bench: Bench) -> None:
    """The caller is told that it is not known; what was applied is in force, in memory too, before anything else."""
    rule = Rule("rule_1", Selector(agent="a"), 1, NOW, "op", "x")
    bench.revocations.rules.add(replace(rule, number=None))
    with failing_commit(bench, applied=True):
        await unavailable(bench, added(rule), "not known")
        with pytest.raises(Unavailable):
            await bench.ledger.commit(noted())
    with pytest.raises(EpochMoved):
        await bench.ledger.commit(issued("tok_stale", 0))
    assert bench.epoch == 1
    known = bench.revocations.rules.get("rule_1")
    assert known is not None
    assert known.number == 1
    assert known.ends_at is not None
    with pytest.raises(GuardFailed):
        await bench.ledger.commit(added(replace(rule, number=2)))
    assert bench.epoch == 1


async def test_an_agent_whose_commit_failed_but_was_applied_is_read_again(bench: Bench) -> None:
    """Caches do not outlive a commit of unknown outcome that turns out to have been applied."""
    assert await bench.ledger.registered_agent("a") is None
    change = registered("a", "k")
    put = change.writes[0]
    assert isinstance(put, PutAgent)
    with failing_commit(bench, applied=True), pytest.raises(Unavailable):
        await bench.ledger.commit(change)
    await bench.ledger.probe()
    assert await bench.ledger.registered_agent("a") == put.agent


async def test_an_agent_that_is_removed_while_it_is_read_is_not_there(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that began before a removal was acknowledged does not bring the agent back afterwards."""
    await bench.ledger.commit(registered("a"))
    read, began, removal = bench.ledger._reader.read, asyncio.Event(), asyncio.Event()

    async def slowly(query: Callable[[Any], Any], *, slow: bool = False) -> Any:  # noqa: ANN401 - what the query returns
        found = await read(query, slow=slow)
        began.set()
        await removal.wait()
        return found

    monkeypatch.setattr(bench.ledger._reader, "read", slowly)
    reading = asyncio.create_task(bench.ledger.registered_agent("a"))
    await began.wait()
    await bench.ledger.commit(removed("a"))
    removal.set()
    assert await reading is None
    assert await bench.ledger.registered_agent("a") is None


@pytest.mark.parametrize("applied", [False, True])
async def test_a_checkpoint_whose_commit_failed_is_never_of_two_roots(tmp_path: Path, *, applied: bool) -> None:
    """Whatever became of the stored size and root, the checkpoint that is signed in the end is of the same tree."""
    signed: dict[int, bytes] = {}

    def sign(size: int, root: bytes) -> str:
        assert signed.setdefault(size, root) == root
        return f"{size} {root.hex()}"

    async with opened(tmp_path / "ledger.db", sign=sign) as bench:
        await bench.issue("tok_1")
        with failing_commit(bench, applied=applied), pytest.raises(Unavailable):
            await bench.ledger.checkpoint()
        head = await bench.ledger.head()
        assert await bench.ledger.checkpoint() == f"{head.size} {head.root.hex()}"
        await bench.verified()


# --- the file is not what it was ------------------------------------------------------------------------------------


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


def truncate(path: Path) -> None:
    """Cut the file."""
    os.truncate(path, 4096)


def remove(path: Path) -> None:
    """Delete the file."""
    path.unlink()


def remove_log(path: Path) -> None:
    """Delete the log, which holds what was acknowledged last."""
    path.with_name(f"{path.name}-wal").unlink()


@pytest.mark.parametrize("damage", [swap, overwrite, truncate, remove, remove_log])
async def test_a_file_that_changed_under_the_process(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Nothing is written to a file that somebody else changed, and nothing ever again until a restart."""
    path = tmp_path / "ledger.db"
    async with opened(path) as bench:
        await bench.issue("tok_1")
        damage(path)
        for _ in range(2):
            with pytest.raises(Unavailable) as caught:
                await bench.issue("tok_2")
            assert caught.value.code is Code.LEDGER_CORRUPT
        assert bench.ledger.healthy() is not None
        assert await bench.ledger.probe() is not None


@pytest.mark.parametrize("damage", [swap, overwrite, truncate, remove, remove_log])
async def test_a_file_that_changed_while_a_transaction_ran(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Law 1: what was committed to files that are gone is not acknowledged, and nothing is any more until a restart."""
    path = tmp_path / "ledger.db"
    async with opened(path) as bench:
        await bench.issue("tok_1")
        dialect = engine_of(bench).dialect
        original = dialect.do_commit

        def commit(connection: Any) -> None:  # noqa: ANN401 - the driver's own type
            original(connection)
            damage(path)

        dialect.do_commit = commit  # type: ignore[method-assign, assignment]
        with pytest.raises(Unavailable) as caught:
            await bench.issue("tok_2")
        assert "not known" in caught.value.public
        dialect.do_commit = original  # type: ignore[method-assign]
        with pytest.raises(Unavailable) as caught:
            await bench.issue("tok_3")
        assert caught.value.code is Code.LEDGER_CORRUPT
        assert await bench.ledger.probe() is not None


async def test_a_head_that_moved_behind_the_process(tmp_path: Path) -> None:
    """Another writer, however it got past the lock, is noticed before anything is built on its work."""
    path = tmp_path / "ledger.db"
    async with opened(path) as bench:
        await bench.issue("tok_1")
        with contextlib.closing(sqlite3.connect(path)) as other, other:
            other.execute("UPDATE head SET size = size + 1")
        with pytest.raises(Unavailable) as caught:
            await bench.issue("tok_2")
        assert caught.value.code is Code.LEDGER_CORRUPT


@pytest.mark.parametrize(
    "damage", [truncate, lambda path: os.truncate(path, 0), lambda path: path.write_bytes(b"x" * 9)]
)
async def test_a_damaged_file_is_not_opened(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """A file that is no whole ledger is refused at start, and never given a fresh schema."""
    path = tmp_path / "ledger.db"
    async with opened(path) as bench:
        await bench.issue("tok_1")
    damage(path)
    content = path.read_bytes()
    with pytest.raises(Unavailable):
        await SqlLedger.open(path, Revocations(), clock=FixedClock())
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM entries WHERE seq = 1",
        "DELETE FROM rules",
        "UPDATE rules SET ends_at = 1; UPDATE head SET size = 9",
        "UPDATE head SET epoch = 7",
        "UPDATE entries SET body = replace(body, 'tok', 'tik') WHERE seq = 1",
        "UPDATE entries SET leaf = zeroblob(32) WHERE seq = 0",
        "UPDATE entries SET leaf = zeroblob(5) WHERE seq = 0",
        "UPDATE head SET frontier = zeroblob(32)",
        "DELETE FROM head",
        "DROP TABLE rates",
    ],
)
async def test_an_inconsistent_ledger_is_opened_for_revoking_only(tmp_path: Path, sql: str) -> None:
    """State that contradicts itself is never built upon; the rules are in force, those that only entries still tell."""
    path = tmp_path / "ledger.db"
    await two_tokens_and_a_rule(path)
    with contextlib.closing(sqlite3.connect(path)) as other, other:
        other.executescript(sql)
    content = recorded(path)
    async with opened(path, sign=lambda size, root: f"{size} {root.hex()}") as bench:
        unsound = bench.ledger.integrity.unsound
        assert unsound is not None
        assert unsound.fault is Fault.DAMAGED
        assert unsound.problems
        with pytest.raises(Unavailable) as caught:
            await bench.issue("tok_3")
        assert caught.value.code is Code.LEDGER_CORRUPT
        assert bench.ledger.healthy() == unsound.public
        assert bench.revocations.rules.killer({("agent", "a")}, 0) is not None
        with pytest.raises(Unavailable):
            await bench.ledger.checkpoint()
    assert recorded(path) == content


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE rules SET selector = '{}'",
        "UPDATE meta SET compatibility = 99",
        "DELETE FROM meta",
        "UPDATE alembic_version SET version_num = 'ffff'",
    ],
)
async def test_a_ledger_whose_rules_cannot_be_read_is_not_opened(tmp_path: Path, sql: str) -> None:
    """Without them, nothing could be said about any token."""
    path = tmp_path / "ledger.db"
    await two_tokens_and_a_rule(path)
    with contextlib.closing(sqlite3.connect(path)) as other, other:
        other.execute(sql)
    with pytest.raises(Unavailable) as caught:
        await SqlLedger.open(path, Revocations(), clock=FixedClock())
    assert caught.value.code is Code.LEDGER_CORRUPT


async def two_tokens_and_a_rule(path: Path) -> None:
    """Make a ledger of three entries."""
    async with opened(path) as bench:
        await bench.issue("tok_1")
        await bench.issue("tok_2")
        await bench.revoke(Selector(agent="a"))


def recorded(path: Path) -> list[object]:
    """Return all rows of what a broker writes to."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        tables = ("entries", "head", "rules", "checkpoints")
        return [database.execute(f"SELECT * FROM {table}").fetchall() for table in tables]  # noqa: S608 - our names


# --- the process dies -----------------------------------------------------------------------------------------------


async def test_a_killed_process_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    """After each kill -9, the ledger opens by itself, verifies, and has every token and rule that was acknowledged."""
    path, acknowledged = tmp_path / "ledger.db", set[str]()
    for _ in range(6):
        acknowledged |= await asyncio.to_thread(run_and_kill, path, random.uniform(0.02, 0.4))
        report = await asyncio.to_thread(verify_file, path)
        assert report.problems == ()
        async with opened(path) as bench:
            assert bench.epoch == report.epoch
            recorded = {record.members.get("ref") for record in await everything(bench)}
            assert acknowledged <= recorded
    assert len(acknowledged) > 100


def run_and_kill(path: Path, seconds: float) -> set[str]:
    """Run the load, kill it after some time of work, and return what it had acknowledged."""
    module = [sys.executable, "-m", "tests.support.ledger_under_load", str(path)]
    with subprocess.Popen(module, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with contextlib.suppress(subprocess.TimeoutExpired):
            # Reading all the time, so that the process is never kept waiting by a full pipe.
            process.communicate(timeout=seconds)
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
    return {line for line in output.split("\n")[:-1] if line}


async def everything(bench: Bench) -> list[Any]:
    """Return all records, page by page."""
    records: list[Any] = []
    while page := await bench.ledger.records(after=len(records) - 1, limit=1000):
        records.extend(page)
    return records
