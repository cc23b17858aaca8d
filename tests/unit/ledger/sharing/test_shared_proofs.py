"""A DPoP proof is good once among all replicas on one database, and nowhere if that cannot be found out."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from broker.core.change import Unused
from broker.core.errors import Code
from broker.core.used_proofs import ProofUse, UsedProofs
from broker.ledger.databases.clock_difference import ClockDifference
from broker.ledger.sharing.shared_proofs import SharedProofs
from broker.ports import Server
from tests.support.ledgers import NOW, digest, opened
from tests.support.postgres import Postgres
from tests.support.postgres_relay import PostgresRelay

END = int(NOW) + 61
ANY_CLOCK = 1e12


@pytest.fixture
def database(postgres: Postgres, tmp_path: Path) -> Server:
    """An empty ledger; who asks waits for as long as this busy machine may need."""
    return replace(postgres.emptied_ledger(tmp_path / "ledger"), max_staleness=30.0, max_clock_difference=5.0)


@pytest.fixture
def way(postgres: Postgres, tmp_path: Path) -> Iterator[PostgresRelay]:
    """A way to the server that can be cut."""
    with PostgresRelay(tmp_path / "way", postgres) as relay:
        yield relay


@asynccontextmanager
async def memory(server: Server, clocks: ClockDifference | None = None) -> AsyncIterator[SharedProofs]:
    """The memory of one replica, which began before any proof was made."""
    proofs = SharedProofs(server, clocks or ClockDifference(5.0), since=NOW - 3600)
    try:
        yield proofs
    finally:
        await proofs.close()


async def used(proofs: SharedProofs, name: str, agent: str = "alice") -> ProofUse:
    """Use a proof up."""
    return await proofs.use(agent, digest(name), END, NOW)


async def test_a_proof_is_good_at_one_replica(database: Server) -> None:
    """However many send it, at whichever moment, to whichever of them."""
    async with memory(database) as one, memory(database) as other:
        assert await used(one, "first") is ProofUse.FRESH
        assert await used(other, "first") is ProofUse.USED
        names = [f"proof_{n}" for n in range(200)]
        there = [used(one, name) for name in names]
        # In the other order, so that each waits for what the other has.
        back = [used(other, name) for name in reversed(names)]
        uses = await asyncio.gather(*there, *back)
        assert Counter(uses) == {ProofUse.FRESH: 200, ProofUse.USED: 200}


async def test_a_replica_that_is_new_knows_what_was_used_before(database: Server) -> None:
    """What was used is written: it outlives whoever accepted it."""
    async with memory(database) as one:
        assert await used(one, "proof") is ProofUse.FRESH
    async with memory(database) as another:
        assert await used(another, "proof") is ProofUse.USED


async def test_a_proof_and_a_writing_transaction_do_not_touch(database: Server) -> None:
    """A key that a grant uses up is another one, so that nobody can make the writer fail by an insert beside it."""
    async with opened(replace(database, max_clock_difference=ANY_CLOCK)) as bench, memory(database) as proofs:
        assert await used(proofs, "same") is ProofUse.FRESH
        await bench.issue("tok_1", Unused(digest("same"), END, Code.PROOF_REPLAYED))


async def test_what_cannot_be_found_out_is_uncertain_once(database: Server, way: PostgresRelay) -> None:
    """A replica that is cut off accepts nothing for sure; what was used up there is used there."""
    async with memory(way.behind(database)) as proofs:
        assert await used(proofs, "before") is ProofUse.FRESH
        way.cut_off()
        assert await used(proofs, "cut off") is ProofUse.UNCERTAIN
        assert await used(proofs, "cut off") is ProofUse.USED
        way.silent = False
        assert await used(proofs, "after") is ProofUse.FRESH
        assert await used(proofs, "before") is ProofUse.USED


async def test_a_session_that_was_ended_is_begun_again(database: Server, postgres: Postgres) -> None:
    """An idle session that the server or something between ended is nobody's refusal."""
    async with memory(database) as proofs:
        await used(proofs, "one")
        postgres.end_sessions()
        assert await used(proofs, "two") is ProofUse.FRESH


async def test_a_server_that_does_not_answer_is_not_waited_for(database: Server) -> None:
    """Whoever asks hears in time that it is uncertain; closing does not wait either."""
    async with memory(replace(database, max_staleness=0.2)) as proofs:
        with psycopg.connect(database.url) as hog:
            hog.execute("LOCK TABLE single_use")
            assert await used(proofs, "stuck") is ProofUse.UNCERTAIN
            await proofs.close()


async def test_a_clock_that_is_wrong_decides_nothing(database: Server) -> None:
    """It could take a proof for young that all others have forgotten already."""
    clocks = ClockDifference(5.0)
    async with memory(database, clocks) as proofs:
        clocks.note(600.0)
        assert await used(proofs, "proof") is ProofUse.UNCERTAIN
        clocks.note(4.0)
        assert await used(proofs, "another") is ProofUse.FRESH


async def test_what_is_used_is_remembered_for_as_long_as_any_clock_may_take_it(database: Server) -> None:
    """One clock may be ahead and forget, while another is behind and accepts; after that, it is forgotten (law 11)."""
    fast = 5.0
    async with opened(replace(database, max_clock_difference=ANY_CLOCK)) as bench, memory(database) as proofs:
        await used(proofs, "proof")
        slow = END + 5.0  # by a right clock, when one that is behind refuses the proof as too old
        assert await bench.ledger.compact(slow + fast - 0.1) == 0
        assert await bench.ledger.compact(slow + fast) == 1


async def test_no_agent_fills_the_table(database: Server) -> None:
    """What one may use up in a minute is bounded before anything is written."""
    async with memory(database) as proofs:
        proofs._own = UsedProofs(8, since=NOW - 3600)
        assert [await used(proofs, str(n)) for n in range(3)] == [ProofUse.FRESH, ProofUse.FRESH, ProofUse.TOO_MANY]
        assert await used(proofs, "other", "bob") is ProofUse.FRESH
