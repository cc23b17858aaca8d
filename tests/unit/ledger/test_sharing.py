"""Several processes on one ledger file: each knows what the others have committed, in time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from broker.core.change import Change, IdempotencyFresh, RateWithin, Receipt, Unused
from broker.core.entry import Kind, entry
from broker.core.errors import Code, EpochMoved, GuardFailed, Unavailable
from broker.core.rules import Block, Rule
from broker.core.selector import Selector
from broker.ledger import SqlLedger
from broker.ports import Revocations
from tests.support.ledgers import (
    NOW,
    Bench,
    FixedClock,
    added,
    digest,
    family_bench,
    family_of,
    issued,
    lifted,
    noted,
    opened,
    registered,
    removed,
    rotated,
    stored_key,
)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Sequence[Bench]]:
    """Two of a family; whatever they do, the ledger verifies afterwards."""
    async with family_bench(tmp_path / "ledger.db") as benches:
        yield benches
        await benches[0].verified()


async def test_entries_of_both_are_one_ledger(pair: Sequence[Bench]) -> None:
    """They take turns, and each continues the other's tree."""
    one, other = pair
    receipts = await asyncio.gather(*(bench.issue(f"tok_{n}_{bench is one}") for n in range(40) for bench in pair))
    assert sorted(receipt.seq for receipt in receipts) == list(range(80))
    assert (await one.ledger.head()) == (await other.ledger.head())


async def test_a_rule_of_the_other_is_in_force_before_the_next_answer(pair: Sequence[Bench]) -> None:
    """No time passes between the answer to whoever revoked and its being known everywhere."""
    one, other = pair
    for number in range(1, 6):
        await one.revoke(Selector(agent=f"a{number}"))
        await other.ledger.freshness.ensure()
        assert other.revocations.rules.killer({("agent", f"a{number}")}, number - 1) is not None
        assert other.epoch == number


async def test_a_grant_that_was_decided_before_a_rule_of_the_other_is_refused(pair: Sequence[Bench]) -> None:
    """Law 2: the rules that moved the epoch are known by the time that it is refused."""
    one, other = pair
    await one.revoke(Selector(agent="a"))
    with pytest.raises(EpochMoved):
        await other.issue("tok_1", epoch=0)
    assert other.epoch == 1
    assert (await other.issue("tok_1")).epoch == 1


async def test_a_block_of_the_other_goes_when_it_is_lifted(pair: Sequence[Bench]) -> None:
    """Blocks that this process has not written yet stay; they are not the other's to lift."""
    one, other = pair
    pending = Block("blk_pending", Selector(agent="b"), None, NOW, "op", "x")
    other.revocations.blocks.add(pending)
    block = Block("blk_1", Selector(agent="a"), 1, NOW, "op", "x")
    await one.ledger.commit(added(Rule("rule_1", Selector(agent="a"), 1, NOW, "op", "x"), block))
    await other.ledger.freshness.ensure()
    assert other.revocations.blocks.get("blk_1") == block
    await one.ledger.commit(lifted("blk_1"))
    await other.ledger.freshness.ensure()
    assert other.revocations.blocks.live(NOW) == (pending,)


async def test_a_rule_that_is_pending_here_is_not_taken_away(pair: Sequence[Bench]) -> None:
    """What this process could not write yet stands above every epoch, whatever the others write."""
    one, other = pair
    other.revocations.rules.add(Rule("rule_pending", Selector(agent="b"), None, NOW, "op", "x"))
    await one.revoke(Selector(agent="a"))
    await other.ledger.freshness.ensure()
    assert other.revocations.rules.killer({("agent", "b")}, 99) is not None


async def test_an_agent_that_the_other_removes_is_forgotten(pair: Sequence[Bench]) -> None:
    """Neither that it is there nor that it is not stays remembered."""
    one, other = pair
    assert await other.ledger.registered_agent("a") is None
    await one.ledger.commit(registered("a"))
    await other.ledger.freshness.ensure()
    assert await other.ledger.registered_agent("a") is not None
    await one.ledger.commit(removed("a"))
    await other.ledger.freshness.ensure()
    assert await other.ledger.registered_agent("a") is None


async def test_keys_and_the_policy_of_the_other_are_told(pair: Sequence[Bench]) -> None:
    """All keys, and the last policy; one's own keys, too, but not one's own policy, which is in force by then."""
    one, other = pair
    told: list[object] = []
    for name, bench in (("one", one), ("other", other)):
        bench.ledger.view.follow(
            keys=lambda rows, name=name: told.append((name, [row.kid for row in rows])),  # type: ignore[misc]
            policy=lambda policy, name=name: told.append((name, policy)),  # type: ignore[misc]
        )
    await one.ledger.commit(rotated(stored_key("1")))
    await one.ledger.commit(Change(entry(Kind.POLICY_LOADED, NOW, policy="first")))
    await one.ledger.commit(Change(entry(Kind.POLICY_LOADED, NOW, policy="second")))
    await other.ledger.freshness.ensure()
    kid = stored_key("1").kid
    assert told == [("one", [kid]), ("other", [kid]), ("other", "second")]


async def test_a_policy_that_was_recorded_before_anybody_follows_is_told(pair: Sequence[Bench]) -> None:
    """A process that is starting misses none."""
    one, other = pair
    await one.ledger.commit(Change(entry(Kind.POLICY_LOADED, NOW, policy="first")))
    await other.ledger.freshness.ensure()
    told: list[str] = []
    other.ledger.view.follow(policy=told.append)
    assert told == ["first"]


async def test_what_changes_nothing_in_memory_costs_no_look(pair: Sequence[Bench]) -> None:
    """Tokens of the other are no reason to ask the database."""
    one, other = pair
    await one.issue("tok_1")
    other.ledger._reader._engine.dispose()
    other.ledger._reader._closed = True  # any look would fail
    await other.ledger.freshness.ensure()
    other.ledger._reader._closed = False


async def test_limits_are_exact_for_all_together(pair: Sequence[Bench]) -> None:
    """Rates, single use and idempotency keys are guards of the one ledger, whoever asks."""
    guards = [RateWithin("agent/a", 5, NOW)]
    answers = await asyncio.gather(
        *(bench.issue(f"tok_{n}_{bench is pair[0]}", *guards) for n in range(10) for bench in pair),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, Receipt) for answer in answers) == 5
    once = Unused(digest("jti"), int(NOW) + 60, "assertion")
    answers = await asyncio.gather(*(bench.ledger.commit(noted(once)) for bench in pair), return_exceptions=True)
    assert sum(isinstance(answer, Receipt) for answer in answers) == 1
    assert sum(isinstance(answer, GuardFailed) for answer in answers) == 1
    fresh = IdempotencyFresh("key", "print", "rule_1", int(NOW) + 60)
    answers = await asyncio.gather(*(bench.ledger.commit(noted(fresh)) for bench in pair), return_exceptions=True)
    assert sum(isinstance(answer, Receipt) for answer in answers) == 1


async def test_the_rules_of_both_are_numbered_without_a_gap(pair: Sequence[Bench]) -> None:
    """Whoever comes second is told, and takes the next number."""

    async def revoke(bench: Bench, number: int) -> None:
        rule = Rule(f"rule_{number}", Selector(agent=f"a{number}"), None, NOW, "op", "x")
        while True:
            try:
                await bench.ledger.commit(added(replace(rule, number=bench.epoch + 1)))
            except EpochMoved:
                continue
            return

    await asyncio.gather(*(revoke(pair[number % 2], number) for number in range(20)))
    for bench in pair:
        await bench.ledger.freshness.ensure()
        assert bench.epoch == 20
        assert len(bench.revocations.rules) == 20


async def test_one_that_was_far_behind_catches_up_by_the_stored_tree(pair: Sequence[Bench]) -> None:
    """More leaves than are added one by one, with rules among them."""
    one, other = pair
    await one.revoke(Selector(agent="a"))
    for _ in range(6):
        await asyncio.gather(*(one.ledger.commit(issued(f"tok_{n}", 1)) for n in range(400)))
    await one.revoke(Selector(agent="b"))
    assert (await other.ledger.commit(noted())).seq == 2402
    assert other.epoch == 2


async def test_entries_of_the_other_are_proved_and_signed(tmp_path: Path) -> None:
    """Whoever is asked has written nothing itself; what it signs is of the whole ledger."""
    sign = lambda size, root: f"{size} {root.hex()}"  # noqa: E731
    with family_of(tmp_path / "ledger.db") as family:
        async with (
            opened(tmp_path / "ledger.db", family=family) as one,
            opened(tmp_path / "ledger.db", family=family, sign=sign) as other,
        ):
            for number in range(3):
                await one.issue(f"tok_{number}")
            assert (await other.ledger.prove(2)).head.size == 3
            await one.issue("tok_3")
            assert (await other.ledger.checkpoint()).startswith("4 ")
            await one.issue("tok_4")
            await other.ledger.measure()
            assert other.ledger.size == 5


async def test_all_memory_is_that_of_a_restart(pair: Sequence[Bench]) -> None:
    """What a process has caught up with is what one that opens the ledger now has in memory."""
    one, other = pair
    for number in range(3):
        await pair[number % 2].ledger.freshness.ensure()
        await pair[number % 2].revoke(Selector(agent=f"a{number}"))
    block = Block("blk_1", Selector(agent="z"), 4, NOW, "op", "x")
    await one.ledger.freshness.ensure()
    await one.ledger.commit(added(Rule("rule_z", Selector(agent="z"), 4, NOW, "op", "x"), block))
    await one.ledger.freshness.ensure()
    await other.ledger.freshness.ensure()
    assert one.revocations.rules.live() == other.revocations.rules.live()
    assert one.revocations.blocks.live(NOW) == other.revocations.blocks.live(NOW) == (block,)


# --- who has the file ------------------------------------------------------------------------------------------------


async def test_a_stranger_is_refused_while_one_of_the_family_lives(tmp_path: Path) -> None:
    """Even when the elder has died: the lock is held by the others, and free when the last of them ends."""
    path = tmp_path / "ledger.db"
    with family_of(path) as family:
        async with opened(path, family=family):
            with pytest.raises(Unavailable) as caught:
                await SqlLedger.open(path, Revocations(), clock=FixedClock())
            assert caught.value.code is Code.LEDGER_UNAVAILABLE
    async with opened(path):
        pass


async def test_one_that_ends_leaves_the_others_the_ledger(tmp_path: Path) -> None:
    """Closing gives back one's own part alone; a new one may join at any time."""
    path = tmp_path / "ledger.db"
    with family_of(path) as family:
        async with opened(path, family=family) as one:
            for number in range(3):
                async with opened(path, family=family) as other:
                    await other.issue(f"tok_{number}")
                await one.issue(f"tok_{number}_one")
            assert (await one.ledger.head()).size == 6
            await one.verified()


async def test_nobody_joins_a_family_that_has_given_the_ledger_back(tmp_path: Path) -> None:
    """A descriptor alone is not the ledger."""
    path = tmp_path / "ledger.db"
    with family_of(path) as family:
        os.ftruncate(family.lock, 0)
        with pytest.raises(Unavailable):
            async with opened(path, family=family):
                pass
