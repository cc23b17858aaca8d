"""A ledger in PostgreSQL when the primary is lost and a standby takes its place, with all that was committed or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from broker.core.change import Receipt
from broker.core.errors import BrokerError, Code, EpochMoved, Unavailable
from broker.core.selector import Selector
from broker.ledger import SqlLedger
from broker.ledger.verify import verify_file
from broker.ports import Revocations, Server
from tests.support.ledgers import Bench, FixedClock, opened
from tests.support.postgres import Postgres
from tests.support.postgres_standby import Standby

PATIENCE = 60.0


@pytest.fixture
def primary() -> Iterator[Postgres]:
    """A server of its own, which is lost."""
    with Postgres() as server:
        yield server


@pytest.fixture
def standby(primary: Postgres, database: Server) -> Iterator[Standby]:
    """A server that follows, with the ledger in it."""
    del database  # made before
    with Standby(primary) as follower:
        yield follower


@pytest.fixture
def database(primary: Postgres, tmp_path: Path) -> Server:
    """An empty ledger."""
    return replace(primary.emptied_ledger(tmp_path / "ledger"), connect_seconds=2.0)


@pytest.fixture
async def bench(database: Server, standby: Standby) -> AsyncIterator[Bench]:
    """A replica that knows both servers."""
    async with opened(standby.besides(database)) as made:
        yield made


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(PATIENCE):
        while not await holds():  # noqa: ASYNC110 - what it waits for is in another process
            await asyncio.sleep(0.02)


async def test_a_standby_is_refused_and_can_be_verified(database: Server, standby: Standby) -> None:
    """Nobody writes to it by mistake, and it says why; whoever only looks may look there."""
    async with opened(database) as bench:
        await bench.issue("tok_1")
    with pytest.raises(Unavailable) as caught:
        await SqlLedger.open(standby.instead(database), Revocations(), clock=FixedClock())
    assert "read-only" in caught.value.public

    async def followed() -> bool:
        return await asyncio.to_thread(lambda: verify_file(standby.instead(database)).entries) == 1

    await until(followed)


async def test_a_failover_in_the_middle_of_work_loses_nothing(
    bench: Bench, primary: Postgres, standby: Standby
) -> None:
    """With a standby that commits wait for: every receipt is of an entry, what was in doubt is there or not."""
    primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    primary.execute("SELECT pg_reload_conf()")
    given: dict[str, Receipt] = {}
    over = asyncio.Event()

    async def load(name: str) -> None:
        number = 0
        while not over.is_set():
            number += 1
            ref = f"{name}_{number}"
            try:
                given[ref] = await bench.issue(ref)
            except (BrokerError, EpochMoved):
                await asyncio.sleep(0.02)

    async def gone_on(more: int) -> None:
        before = len(given)

        async def more_are() -> bool:
            return len(given) >= before + more

        await until(more_are)

    working = [asyncio.ensure_future(load(f"worker_{n}")) for n in range(8)]
    await gone_on(100)
    rule = await bench.revoke(Selector(agent="somebody"))
    await asyncio.to_thread(primary.lose)
    await asyncio.to_thread(standby.promote)
    await gone_on(100)
    over.set()
    await asyncio.gather(*working)
    for ref, receipt in given.items():
        found = await bench.ledger.record_of(ref)
        assert found is not None
        assert found.seq == receipt.seq
    assert [each.id for each in await bench.ledger.rules()] == [rule.id]
    await bench.ledger.freshness.ensure()
    await bench.verified()


async def test_a_failover_to_a_copy_that_is_behind(bench: Bench, primary: Postgres, standby: Standby) -> None:
    """Acknowledged entries are gone: nothing is issued or judged upon it by whoever knew them."""
    await bench.issue("tok_1")
    standby.stop()
    await bench.issue("tok_2")
    await bench.revoke(Selector(agent="hijacked"), "rule_lost")
    await asyncio.to_thread(primary.lose)
    await asyncio.to_thread(standby.start)
    await asyncio.to_thread(standby.promote)

    async def condemned() -> bool:
        try:
            await bench.issue("tok_3")
        except Unavailable as error:
            return error.code is Code.LEDGER_CORRUPT
        return False

    await until(condemned)
    assert bench.revocations.rules.get("rule_lost") is not None

    async def says_nothing() -> bool:
        try:
            await bench.ledger.freshness.ensure()
        except Unavailable as error:
            return error.code is Code.RULES_STALE
        return False

    await until(says_nothing)
