"""Group commit: what waits shares a transaction, urgent changes go first, and memory stays bounded."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import event

from broker.core.change import Receipt
from broker.core.errors import Code, EpochMoved, Unavailable
from broker.core.rules import Block, Rule
from broker.core.selector import Selector
from broker.ledger.writing import group_commit
from broker.ports import Place
from tests.support.ledgers import NOW, Bench, FixedClock, added, issued, noted, opened, outcomes


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """An open ledger, whose transactions wait for as long as a test holds them up on a busy machine."""
    async with opened(tmp_path / "ledger.db", busy_seconds=60.0) as bench:
        yield bench


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the write lock, so that changes gather behind a transaction that cannot begin."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield
    other.execute("ROLLBACK")
    other.close()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that another thread or task brings about, for five seconds at most."""
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - what brings it about has nothing to wait on
            await asyncio.sleep(0.01)


async def test_changes_that_wait_share_transactions(bench: Bench) -> None:
    """A thousand changes at once take a few transactions, not a thousand."""
    commits = 0

    def count(_: object) -> None:
        nonlocal commits
        commits += 1

    event.listen(bench.ledger._writer._engine, "commit", count)
    await outcomes(bench.ledger, [noted() for _ in range(1000)])
    assert commits <= 20


async def test_urgent_changes_overtake_all_that_wait(bench: Bench) -> None:
    """A rule made while a long queue waits is committed before the queue, which then has to decide again."""
    with held(bench.path):
        first = asyncio.create_task(bench.ledger.commit(noted()))
        await asyncio.sleep(0.05)
        queue = [asyncio.create_task(bench.ledger.commit(issued(f"tok_{n}", 0))) for n in range(2000)]
        rule = Rule("rule_1", Selector(everything=True), 1, NOW, "op", "now")
        await asyncio.sleep(0)
        urgent = asyncio.create_task(bench.ledger.commit(added(rule)))
        await asyncio.sleep(0)
    assert (await first).seq == 0
    assert await urgent == Receipt(1, 1)
    results = await asyncio.gather(*queue, return_exceptions=True)
    assert all(isinstance(result, EpochMoved) for result in results)


class Watched(deque[group_commit._Waiting]):
    """An urgent lane whose next look by the writer takes as long as a test likes, and sees what was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.is_looked_at, self.is_late = threading.Event(), threading.Event()

    def __len__(self) -> int:
        count = super().__len__()
        if threading.current_thread().name == "ledger-writer" and not self.is_looked_at.is_set():
            self.is_looked_at.set()
            self.is_late.wait(5)
        return count


async def test_an_urgent_change_is_never_overlooked(bench: Bench) -> None:
    """One that arrives just when the writer has looked for urgent changes is taken at its next look, traffic or not."""
    lane = bench.ledger._group._urgent = Watched()
    ordinary = asyncio.create_task(bench.ledger.commit(noted()))
    await until(lane.is_looked_at.is_set)
    urgent = asyncio.create_task(
        bench.ledger.commit(added(Rule("rule_1", Selector(everything=True), 1, NOW, "op", "now")))
    )
    await asyncio.sleep(0)
    lane.is_late.set()
    await ordinary
    async with asyncio.timeout(1.5):
        assert (await urgent).epoch == 1


async def test_too_long_a_queue_is_refused_at_once_but_not_for_revocations(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a store that does not answer, memory stays bounded; urgent changes are always taken."""
    monkeypatch.setattr(group_commit, "MAX_WAITING", 10)
    with held(bench.path):
        first = asyncio.create_task(bench.ledger.commit(noted()))
        await asyncio.sleep(0.05)
        waiting = [asyncio.create_task(bench.ledger.commit(noted())) for _ in range(9)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable) as caught:
            await bench.ledger.commit(noted())
        assert caught.value.code is Code.OVERLOADED
        assert caught.value.retry_after == 1
        rule = asyncio.create_task(bench.ledger.commit(added(Rule("rule_1", Selector(agent="a"), 1, NOW, "op", "x"))))
        await asyncio.sleep(0)
    await asyncio.gather(first, rule, *waiting)


async def test_the_loop_goes_on_while_the_store_is_slow(bench: Bench) -> None:
    """Waiting for the store costs the event loop nothing."""
    with held(bench.path):
        task = asyncio.create_task(bench.ledger.commit(noted()))
        turns = 0
        loop = asyncio.get_running_loop()
        end = loop.time() + 0.1
        while loop.time() < end:
            await asyncio.sleep(0.001)
            turns += 1
        assert not task.done()
        assert turns > 20
    await task


async def test_state_is_there_again_after_a_restart(place: Place) -> None:
    """Live rules and blocks and the epoch come back; ended ones do not, but the epoch counts them."""
    path, clock = place, FixedClock()
    async with opened(path, clock=clock) as bench:
        await bench.issue("tok_1", expires_at=int(NOW) + 5000)
        for number, until in ((1, None), (2, NOW + 60)):
            selector = Selector(agent=f"a{number}")
            block = Block(f"blk_{number}", selector, number, NOW, "op", "x", until)
            await bench.ledger.commit(added(Rule(f"rule_{number}", selector, number, NOW, "op", "x"), block))
        rules, blocks = bench.revocations.rules.live(), bench.revocations.blocks.live(NOW)
    async with opened(path, clock=clock) as bench:
        assert bench.epoch == 2
        assert bench.revocations.rules.live() == rules
        assert bench.revocations.blocks.live(NOW) == blocks
    clock.time += 6000
    async with opened(path, clock=clock) as bench:
        assert bench.epoch == 2
        assert bench.revocations.rules.live() == ()
        assert [block.id for block in bench.revocations.blocks.live(0)] == ["blk_1"]
        await bench.revoke(Selector(agent="a3"))
        assert bench.epoch == 3


async def test_the_log_is_copied_back_when_there_is_nothing_to_do(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while without work, the database file itself holds everything, and committing goes on."""
    monkeypatch.setattr(group_commit, "IDLE_SECONDS", 0.05)
    await bench.issue("tok_findable")
    await bench.issue("tok_findable_too")
    await until(lambda: b"tok_findable_too" in bench.path.read_bytes())
    await bench.issue("tok_3")
    await bench.verified()


async def test_a_long_log_is_copied_back_in_between(bench: Bench) -> None:
    """Under steady work the log does not grow without end."""
    for _ in range(80):
        await outcomes(bench.ledger, [noted(text="x" * 50_000) for _ in range(10)])
    log = bench.path.with_name("ledger.db-wal")
    assert log.stat().st_size < 24_000_000
    assert (await bench.verified()).size == 800


async def test_the_log_is_copied_back_beside_readers(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers keep connections of their own, so that closing the writer's copies nothing: it is done in place."""
    monkeypatch.setattr(group_commit, "IDLE_SECONDS", 0.05)
    await bench.issue("tok_findable")
    assert await bench.ledger.record(0) is not None
    await until(lambda: b"tok_findable" in bench.path.read_bytes())
    await bench.issue("tok_2")
    await bench.verified()


async def test_a_log_is_cut_to_nothing_unless_somebody_reads_what_it_holds(bench: Bench) -> None:
    """Whoever waits for that is told the truth, and nothing is held up by it."""
    await bench.issue("tok_1")
    log = bench.path.with_name("ledger.db-wal")
    with contextlib.closing(sqlite3.connect(bench.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM entries").fetchone()
        await bench.issue("tok_2")
        assert not await bench.ledger.forget_erased()
        assert log.stat().st_size > 0
    assert await bench.ledger.forget_erased()
    assert log.stat().st_size == 0
    await bench.issue("tok_3")
    assert (await bench.verified()).size == 3


async def test_checkpoints_are_made_while_there_is_traffic(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a moment of a commit there is a signed checkpoint of it, made by itself; without news, none is made."""
    signed: list[int] = []

    def sign(size: int, root: bytes) -> str:
        signed.append(size)
        return f"{size} {root.hex()}"

    monkeypatch.setattr("broker.ledger.checkpoints.EVERY_SECONDS", 0.02)
    async with opened(place, sign=sign) as bench:
        await bench.issue("tok_1")
        await until(lambda: 1 in signed)
        made = len(signed)
        await asyncio.sleep(0.1)
        assert len(signed) == made
        await bench.issue("tok_2")
    assert signed[-1] == 2, "closing makes a last one"
    async with opened(place, sign=sign) as bench:
        await bench.ledger.checkpoint()
    assert signed[-1] == 2
    assert signed.count(2) == 1, "what was signed before is not signed again"
