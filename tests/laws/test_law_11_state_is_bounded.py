"""Law 11: rules, replay entries, idempotency records, codes and counts have an end, and are forgotten after it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from broker.core.errors import Refused
from broker.core.token_check import MAX_REMEMBERED, TokenCheck
from broker.ledger.verify import verify_file
from broker.registration import Registration
from broker.revocation import BlockFor
from tests.support.fakes import CALLER, NOW
from tests.support.world import ISSUER, World, durable_world, order

TEMPORARY = ("single_use", "rates", "idempotency", "enrollments")


def rows(file: Path) -> dict[str, int]:
    """Count the rows that are to be forgotten."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as other:
        return {table: other.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TEMPORARY}  # noqa: S608


async def use_everything(world: World) -> None:
    """Leave one of each behind."""
    registration = Registration(
        ledger=world.ledger, records=world.records, clock=world.clock, ids=world.ids, strangers=world.strangers
    )
    await world.issue()
    await registration.invite("new", by="alice", caller=CALLER)
    await world.revocation.revoke(order(key="k", block=BlockFor(seconds=3600)), CALLER)


async def test_everything_that_ended_is_forgotten(world: World, file: Path) -> None:
    """A day later nothing is left but the record; the ledger still verifies, and the epoch stays."""
    assert world.sql is not None
    await use_everything(world)
    assert all(rows(file).values())
    assert (len(world.revocations.rules), len(world.revocations.blocks.live(NOW))) == (1, 1)
    world.clock.time += 2 * 24 * 3600
    await world.sql.compact(world.clock.time)
    assert rows(file) == dict.fromkeys(TEMPORARY, 0)
    assert (len(world.revocations.rules), world.revocations.rules.epoch) == (0, 1)
    assert world.revocations.blocks.live(NOW) == ()
    assert verify_file(file).problems == ()
    assert (await world.issue()).claims.epoch == 1


async def test_nothing_that_still_counts_is_forgotten(world: World, file: Path) -> None:
    """Compacting early takes nothing away: no replay, no second rule, no second key, and the dead stay dead."""
    assert world.sql is not None
    request = world.request()
    issued = await world.issuance.issue(request, CALLER)
    first = await world.revocation.revoke(order(key="k", block=BlockFor(seconds=3600)), CALLER)
    await world.sql.compact(world.clock.time + 1)
    with pytest.raises(Refused):
        await world.issuance.issue(request, CALLER)
    assert (
        await world.revocation.revoke(order(key="k", block=BlockFor(seconds=3600)), CALLER)
    ).rule.id == first.rule.id
    assert not world.lives(issued.token)
    with pytest.raises(Refused):
        await world.issue()


async def test_a_rule_lives_as_long_as_what_it_killed(world: World) -> None:
    """It is forgotten only after the last token that it could hit has expired, and then nothing comes back to life."""
    assert world.sql is not None
    issued = await world.issue()
    await world.revoke(agent="triage")
    world.clock.time = issued.claims.exp - 1
    await world.sql.compact(world.clock.time)
    assert not world.lives(issued.token)
    assert len(world.revocations.rules) == 1
    world.clock.time = issued.claims.exp + 3600
    await world.sql.compact(world.clock.time)
    assert len(world.revocations.rules) == 0
    assert not world.lives(issued.token)


async def test_a_clock_that_jumps_forward_and_back_revives_nothing(world: World) -> None:
    """Rules that were forgotten while the clock was wrong are in force again when it is right."""
    assert world.sql is not None
    issued = await world.issue()
    outcome = await world.revoke(agent="triage", block=BlockFor(seconds=3600))
    world.clock.time += 30 * 24 * 3600
    await world.sql.compact(world.clock.time)
    world.clock.time = NOW + 10
    await world.sql.recall(world.clock.time)
    assert not world.lives(issued.token)
    assert outcome.block is not None
    assert world.revocations.blocks.get(outcome.block.id) is not None


async def test_a_broker_that_starts_while_the_clock_is_ahead_revives_nothing(file: Path) -> None:
    """It did not load the rules that seemed to have ended; when the clock is set right, it does."""
    async with durable_world(file) as before:
        await before.revoke(agent="triage")
    async with durable_world(file, NOW + 30 * 24 * 3600) as ahead:
        await ahead.revoke(agent="somebody")
    async with durable_world(file, NOW + 30 * 24 * 3600) as after:
        assert after.sql is not None
        assert [rule.number for rule in after.revocations.rules.live()] == [2]
        await after.sql.recall(NOW)
        assert [rule.number for rule in after.revocations.rules.live()] == [1, 2]


async def test_a_restart_loads_what_is_in_force_only(file: Path) -> None:
    """Rules that have ended are history: they cost a restarted broker nothing, and its epoch is right."""
    async with durable_world(file) as before:
        await use_everything(before)
    async with durable_world(file) as soon:
        assert len(soon.revocations.rules) == 1
        soon.clock.time += 2 * 24 * 3600
        await soon.revoke(agent="somebody")
    async with durable_world(file) as after:
        assert after.revocations.rules.epoch == 2


async def test_the_memory_of_good_tokens_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are shown, the longest unseen is forgotten, which costs a signature when it comes again."""
    assert MAX_REMEMBERED <= 100_000
    monkeypatch.setattr("broker.core.token_check.MAX_REMEMBERED", 3)
    check = TokenCheck(
        issuer=ISSUER,
        keys=lambda: world.ring.verification_keys(world.clock.time),
        rules=lambda: world.revocations.rules,
    )
    tokens = [(await world.issue(name)).token for name in ("triage", "other") * 3]
    for token in (*tokens, *tokens):
        check.check(token, world.clock.time, None)
    assert len(check._verified) == 3
