"""Law 1: a token leaves the process only after its entry is durable; revoking works when nothing can be written."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from broker.core.errors import Code, Unavailable
from broker.issuance import Issued
from broker.revocation import BlockFor
from tests.support.fakes import CALLER, cancelled_after
from tests.support.world import World, agent


def recorded(file: Path) -> set[str]:
    """Return the tokens that another process finds in the ledger's file."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as other:
        return {ref for (ref,) in other.execute("SELECT ref FROM entries WHERE kind = 'token.issued'")}


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the database's write lock, so that nothing can be written."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def test_every_released_token_is_in_the_file_at_that_moment(world: World, file: Path) -> None:
    """Whoever gets a token can be shown its record by another process, at once."""

    async def ask(name: str) -> None:
        issued = await world.issue(name)
        assert issued.claims.jti in recorded(file)

    await asyncio.gather(*(ask(name) for name in ["triage"] * 4 + ["other"] * 4))


async def test_without_a_record_there_is_no_token(world: World, file: Path) -> None:
    """The ledger cannot be written: 503, no credential, no record; when it can, tokens are issued again."""
    with locked(file):
        answers = await asyncio.gather(*(world.issue() for _ in range(3)), return_exceptions=True)
    assert all(isinstance(answer, Unavailable) and answer.code is Code.LEDGER_UNAVAILABLE for answer in answers)
    assert recorded(file) == set()
    issued = await world.issue()
    assert recorded(file) == {issued.claims.jti}


async def test_refused_or_cancelled_nothing_is_released_unrecorded(world: World, file: Path) -> None:
    """Cancelled at any await, a token that came out is in the file."""
    released: list[Issued] = []
    for turns in range(8):
        world.clock.time += 61
        issued = await cancelled_after(world.issue(), turns)
        released += [] if issued is None else [issued]
    assert {issued.claims.jti for issued in released} <= recorded(file)


async def test_revoking_works_while_nothing_can_be_written(world: World, file: Path) -> None:
    """In force at once, honest about it, and durable when the ledger is back: a restart would know it."""
    issued = await world.issue()
    with locked(file):
        outcome = await world.revoke(agent="triage")
        assert not outcome.durable
        assert not world.lives(issued.token)
        assert not world.introspection.introspect(issued.token, agent("alice"), frozenset({"operator:read"}))["active"]
        assert await world.revocation.write_pending() == 1
    assert await world.revocation.write_pending() == 0
    with closing(sqlite3.connect(file)) as other:
        assert other.execute("SELECT number, id FROM rules").fetchall() == [(1, outcome.rule.id)]


async def test_a_pending_rule_stands_above_every_epoch(world: World, file: Path) -> None:
    """A token issued between the outage and the late writing is covered by the rule, before and after it is written."""
    with locked(file):
        await world.revoke(agent="triage")
    between = await world.issue()
    assert not world.lives(between.token)
    await world.revocation.write_pending()
    assert not world.lives(between.token)
    assert world.lives((await world.issue()).token)


async def test_lifting_a_block_is_recorded_before_it_acts(world: World, file: Path) -> None:
    """What takes protection away waits for the ledger, unlike what adds it."""
    outcome = await world.revoke(agent="triage", block=BlockFor())
    assert outcome.block is not None
    with locked(file), pytest.raises(Unavailable):
        await world.revocation.lift(outcome.block.id, by="alice", reason="ok", caller=CALLER)
    assert world.revocations.blocks.get(outcome.block.id) is not None
