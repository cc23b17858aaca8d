"""A ledger in PostgreSQL when the server, the way to it, or another replica fails; and law 2 between replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from broker.core.change import Unused
from broker.core.errors import BrokerError, Code, EpochMoved, GuardFailed, Unavailable
from broker.core.selector import Selector
from broker.ledger import SqlLedger
from broker.ledger.sharing.database_leadership import DatabaseLeadership
from broker.ports import Revocations, Server
from tests.support.ledgers import NOW, Bench, FixedClock, digest, issued, opened
from tests.support.postgres import Postgres
from tests.support.postgres_relay import PostgresRelay

PATIENCE = 30.0
EVERYTHING = Selector(everything=True)


@pytest.fixture
def database(postgres: Postgres, tmp_path: Path) -> Server:
    """An empty ledger."""
    return postgres.emptied_ledger(tmp_path / "ledger")


@pytest.fixture
def relay(postgres: Postgres, tmp_path: Path) -> Iterator[PostgresRelay]:
    """A way to the server that can be cut."""
    with PostgresRelay(tmp_path / "way", postgres) as way:
        yield way


@pytest.fixture
async def one(database: Server, relay: PostgresRelay) -> AsyncIterator[Bench]:
    """A replica behind a way that can be cut."""
    async with opened(relay.behind(database)) as bench:
        yield bench


@pytest.fixture
async def other(database: Server, tmp_path: Path) -> AsyncIterator[Bench]:
    """Another replica, which nothing disturbs; whatever was done, the ledger verifies afterwards."""
    async with opened(replace(database, beside=tmp_path / "other")) as bench:
        yield bench
        await bench.verified()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(PATIENCE):
        while not await holds():  # noqa: ASYNC110 - what it waits for is in another process
            await asyncio.sleep(0.02)


async def recorded(bench: Bench, ref: str) -> bool:
    """Whether a token is in the ledger."""
    return await bench.ledger.record_of(ref) is not None


async def works(bench: Bench, ref: str) -> bool:
    """Whether a token can be issued, which it is then."""
    try:
        await bench.issue(ref)
    except Unavailable:
        return False
    return True


async def test_a_grant_that_another_replica_forestalled_is_decided_again(one: Bench, other: Bench) -> None:
    """Law 2: whoever revokes where, no grant commits that was decided before; and it hears of the rule by that."""
    await one.issue("tok_1")
    before = one.epoch
    rule = await other.revoke(Selector(agent="cluster/support/triage"))
    with pytest.raises(EpochMoved):
        await one.ledger.commit(issued("tok_2", before))
    assert one.revocations.rules.get(rule.id) is not None
    await one.issue("tok_2")
    assert (await other.issue("tok_3")).epoch == 1


async def test_a_key_is_used_once_between_replicas(one: Bench, other: Bench) -> None:
    """Of replays at two replicas at the same moment, one is accepted."""
    guard = Unused(digest("proof"), int(NOW) + 60, Code.PROOF_REPLAYED)
    tried = [bench.issue(f"{name}_{n}", guard) for n in range(8) for name, bench in (("one", one), ("other", other))]
    results = await asyncio.gather(*tried, return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in results) == 1
    assert all(isinstance(result, GuardFailed) for result in results if isinstance(result, BaseException))


async def test_many_writers_leave_one_ledger(one: Bench, other: Bench) -> None:
    """Places are given once, whoever gives them."""
    tried = [bench.issue(f"{name}_{n}") for n in range(100) for name, bench in (("one", one), ("other", other))]
    places = [receipt.seq for receipt in await asyncio.gather(*tried)]
    assert sorted(places) == list(range(200))


async def test_a_commit_that_never_arrived_was_not_made(one: Bench, other: Bench, relay: PostgresRelay) -> None:
    """The connection is lost before the COMMIT arrives: nothing was written, and the next transaction goes on."""
    await one.issue("tok_1")
    relay.lose_commits = True
    with pytest.raises(Unavailable):
        await one.issue("tok_2")
    assert one.ledger.healthy() is not None
    relay.lose_commits = False
    assert (await one.issue("tok_3")).seq == 1
    assert not await recorded(other, "tok_2")


async def test_a_commit_whose_answer_was_lost_is_found(one: Bench, other: Bench, relay: PostgresRelay) -> None:
    """The connection is lost after the COMMIT was done: nobody is given the token, and what follows builds on it."""
    await one.issue("tok_1")
    relay.lose_answers = True
    with pytest.raises(Unavailable):
        await one.issue("tok_2")
    relay.lose_answers = False
    assert (await one.issue("tok_3")).seq == 2
    assert await recorded(other, "tok_2")


async def test_a_rule_whose_answer_was_lost_is_in_force(one: Bench, other: Bench, relay: PostgresRelay) -> None:
    """Others may build on it between: it is found by looking, not by whoever moved the head."""
    await one.issue("tok_0")
    relay.lose_answers = True
    with pytest.raises(BrokerError):
        await one.revoke(EVERYTHING, "rule_lost")
    await other.issue("tok_1", epoch=1)
    relay.lose_answers = False
    await until(lambda: works(one, "tok_2"))
    assert (found := one.revocations.rules.get("rule_lost")) is not None
    assert found.number == 1


async def test_a_terminated_backend_loses_nothing(one: Bench, other: Bench, postgres: Postgres) -> None:
    """Connections that the server ends at any moment: every receipt is of an entry, and work goes on."""
    receipts = []
    for n in range(10):
        tried = [one.issue(f"tok_{n}_{each}") for each in range(8)]
        ended = asyncio.to_thread(
            postgres.execute,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ 'head' AND pid <> pg_backend_pid()",
        )
        *results, _ = await asyncio.gather(*tried, ended, return_exceptions=True)
        receipts += [(f"tok_{n}_{each}", result) for each, result in enumerate(results)]
        await until(lambda n=n: works(one, f"tok_after_{n}"))  # type: ignore[misc]
    for ref, result in receipts:
        if not isinstance(result, BaseException):
            assert await recorded(other, ref)


async def test_a_replica_that_is_cut_off_refuses_by_itself(one: Bench, other: Bench, relay: PostgresRelay) -> None:
    """It answers from what it knows for ``max_staleness``, and not after; when the way is open again, it goes on."""
    await one.ledger.freshness.ensure()
    relay.cut_off()
    await other.revoke(EVERYTHING, "rule_missed")
    await until(lambda: refuses(one))
    assert one.revocations.rules.get("rule_missed") is None
    relay.silent = False

    async def answers() -> bool:
        return not await refuses(one)

    await until(answers)
    assert one.revocations.rules.get("rule_missed") is not None


async def test_a_rule_reaches_a_replica_that_has_nothing_to_do(one: Bench, other: Bench) -> None:
    """Nobody asks it anything: it hears of the rule all the same."""
    rule = await other.revoke(EVERYTHING)

    async def heard() -> bool:
        return one.revocations.rules.get(rule.id) is not None

    await until(heard)


async def test_a_lost_notification_is_only_late(one: Bench, other: Bench, postgres: Postgres) -> None:
    """Whoever cannot listen looks by itself, and listens again when it can."""
    listening = "FROM pg_stat_activity WHERE query LIKE 'LISTEN %' AND pid <> pg_backend_pid()"
    rule = await other.revoke(EVERYTHING)

    async def heard() -> bool:
        await asyncio.to_thread(postgres.execute, f"SELECT pg_terminate_backend(pid) {listening}")
        return one.revocations.rules.get(rule.id) is not None

    await asyncio.to_thread(postgres.execute, f"SELECT pg_terminate_backend(pid) {listening}")
    await until(heard)

    async def listens() -> bool:
        return await asyncio.to_thread(postgres.execute, f"SELECT count(*) {listening}") == [(2,)]

    await until(listens)


async def test_no_answer_is_older_than_it_may_be(one: Bench, other: Bench) -> None:
    """What was committed ``max_staleness`` ago is in force wherever a token may be judged."""
    staleness = Server("", Path()).max_staleness
    for n in range(3):
        rule = await other.revoke(Selector(token=f"tok_{n}"))
        await asyncio.sleep(staleness)
        await one.ledger.freshness.ensure()
        assert one.revocations.rules.get(rule.id) is not None


async def test_a_crash_of_the_server(postgres: Postgres, one: Bench, other: Bench) -> None:
    """It recovers; what was acknowledged is there, and both replicas go on without being restarted."""
    before = await one.issue("tok_1")
    await asyncio.to_thread(postgres.crash)
    await until(lambda: works(one, "tok_2"))
    await until(lambda: works(other, "tok_3"))
    assert (found := await other.ledger.record_of("tok_1")) is not None
    assert found.seq == before.seq


async def test_a_server_that_hangs(postgres: Postgres, database: Server) -> None:
    """Nothing is said of tokens, no loop is held up, and whatever waits ends: what was to be written is in doubt."""
    hurried = replace(database, statement_seconds=1.0, connect_seconds=2.0)
    async with opened(hurried) as bench:
        await bench.issue("tok_1")
        with postgres.hung():
            await until(lambda: refuses(bench))
            with pytest.raises(Unavailable):
                await asyncio.wait_for(bench.issue("tok_2"), PATIENCE)
        await until(lambda: works(bench, "tok_3"))
        await bench.ledger.freshness.ensure()
        await bench.verified()


async def test_a_server_that_hangs_is_left(postgres: Postgres, database: Server) -> None:
    """Closing and leading no more end without it."""
    hurried = replace(database, statement_seconds=1.0, connect_seconds=2.0)
    leadership = DatabaseLeadership(hurried)
    async with opened(hurried) as bench:
        await until(lambda: leads(leadership))
        with postgres.hung():
            await asyncio.wait_for(asyncio.to_thread(leadership.close), PATIENCE)
            assert not leadership.leads()
            await asyncio.wait_for(bench.ledger.close(), PATIENCE)


async def leads(leadership: DatabaseLeadership) -> bool:
    """Whether a replica leads."""
    return leadership.leads()


async def refuses(bench: Bench) -> bool:
    """Whether a replica says that it cannot say anything."""
    try:
        await bench.ledger.freshness.ensure()
    except Unavailable as error:
        return error.code is Code.RULES_STALE
    return False


async def test_a_ledger_that_went_back_is_not_built_upon(one: Bench, postgres: Postgres, database: Server) -> None:
    """A failover that lost commits, or a backup under a running broker: nothing is written any more."""
    await one.issue("tok_1")
    await one.issue("tok_2")
    schema = database.url.rpartition("%3D")[2]
    postgres.execute(
        f"WITH gone AS (DELETE FROM {schema}.entries) UPDATE {schema}.head SET size = 0, frontier = ''"  # noqa: S608
    )
    with pytest.raises(Unavailable) as caught:
        await one.issue("tok_3")
    assert caught.value.code is Code.LEDGER_CORRUPT
    with pytest.raises(Unavailable):
        await asyncio.wait_for(_stale(one), PATIENCE)


async def _stale(bench: Bench) -> None:
    while True:
        await bench.ledger.freshness.ensure()
        await asyncio.sleep(0.02)


async def test_a_server_that_became_read_only(postgres: Postgres, one: Bench) -> None:
    """As a primary that was demoted: nothing is issued, and the reason is said."""
    await one.issue("tok_1")
    postgres.execute("ALTER DATABASE postgres SET default_transaction_read_only = on")
    try:
        postgres.end_sessions()

        async def says_why() -> bool:
            try:
                await one.issue("tok_2")
            except Unavailable as error:
                return "read-only" in error.public
            return False

        await until(says_why)
    finally:
        postgres.execute("BEGIN READ WRITE; ALTER DATABASE postgres RESET ALL; COMMIT")
    await until(lambda: works(one, "tok_3"))


async def test_two_replicas_that_make_or_migrate_at_once(postgres: Postgres, tmp_path: Path) -> None:
    """One of two that make a ledger has it made; all that open it, open the same."""
    place = postgres.ledger(tmp_path / "ledger")
    made = await asyncio.gather(
        *(asyncio.to_thread(SqlLedger.create, place, NOW) for _ in range(2)), return_exceptions=True
    )
    assert sorted(type(each).__name__ for each in made) == ["Unavailable", "str"]
    ledgers = await asyncio.gather(
        *(SqlLedger.open(place, Revocations(), clock=FixedClock()) for _ in range(3)), return_exceptions=False
    )
    assert len({ledger.id for ledger in ledgers}) == 1
    for ledger in ledgers:
        await ledger.close()


async def test_there_is_no_ledger(postgres: Postgres, tmp_path: Path) -> None:
    """An empty database does not become an empty ledger unnoticed."""
    with pytest.raises(Unavailable) as caught:
        await SqlLedger.open(postgres.ledger(tmp_path / "ledger"), Revocations(), clock=FixedClock())
    assert caught.value.code is Code.LEDGER_CORRUPT


def test_a_lost_socket_is_said_without_details(tmp_path: Path) -> None:
    """Who asks hears what kind of failure it is, not where the server was looked for."""
    with pytest.raises(Unavailable) as caught:
        SqlLedger.create(Server(f"postgresql://secret-user@/db?host={tmp_path}", tmp_path / "ledger"), NOW)
    assert "secret-user" not in str(caught.value) + caught.value.public
