"""Law 2: no grant commits after a revocation that covers it, whatever the interleaving."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from broker.core.errors import Refused
from broker.core.rules import RuleIndex
from broker.core.selector import parse_selector
from broker.issuance import Issued
from broker.revocation import BlockFor, Outcome
from tests.support.fakes import settled
from tests.support.world import World


@pytest.mark.parametrize("seed", range(4))
async def test_every_token_is_stamped_with_the_rules_before_it(world: World, seed: int) -> None:
    """In the ledger, the epoch of each token is the number of rules above it: none was decided on older ones."""
    random = Random(seed)

    async def one() -> object:
        for _ in range(random.randrange(6)):
            await asyncio.sleep(0)
        if random.random() < 0.3:
            return await world.revoke(agent=random.choice(["triage", "other", "nobody"]))
        world.clock.time += 20
        return await world.issue(random.choice(["triage", "other"]))

    answers: list[object] = []
    for _ in range(6):
        answers += await asyncio.gather(*(one() for _ in range(12)), return_exceptions=True)
    unexpected = [answer for answer in answers if isinstance(answer, BaseException) and not isinstance(answer, Refused)]
    assert unexpected == []
    rules = 0
    stamped: list[int] = []
    for record in await world.records.records(limit=1000):
        if record.members["kind"] == "rule.added":
            rules += 1
            assert record.members["number"] == rules
        elif record.members["kind"] == "token.issued":
            assert record.members["epoch"] == rules
            stamped.append(rules)
    assert stamped
    assert len(set(stamped)) > 1


async def test_a_token_lives_iff_no_rule_above_its_record_covers_it(world: World) -> None:
    """What the process believes of its tokens is what the ledger's order says."""
    issued: list[Issued] = []
    for round_number in range(5):
        world.clock.time += 61
        issued += await asyncio.gather(*(world.issue(name) for name in ("triage", "triage", "other", "other")))
        await world.revoke(agent=("triage", "other", "nobody")[round_number % 3])
    records = await world.records.records(limit=1000)
    for one in issued:
        later = [record.members for record in records if record.seq > one.seq]
        killers = [members["selector"] for members in later if members["kind"] == "rule.added"]
        covered = any(one.claims.client_id == selector["agent"] for selector in killers)
        assert world.lives(one.token) is not covered


async def test_a_decision_that_waited_is_made_again(world: World) -> None:
    """A request is held up between its decision and its commit while a block is made: it is refused."""
    commit, held = world.ledger.commit, asyncio.Event()
    waiting = asyncio.Event()

    class Slow:
        """The same ledger, whose first commit is slow to begin."""

        first = True

        async def commit(self, change):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            if self.first and change.entry.columns.kind == "token.issued":
                self.first = False
                waiting.set()
                await held.wait()
            return await commit(change)

    world.compose(Slow(), world.records)
    request = asyncio.ensure_future(world.issue())
    await waiting.wait()
    await world.revoke(agent="triage", block=BlockFor())
    held.set()
    with pytest.raises(Refused):
        await request
    await settled()
    kinds = [record.members["kind"] for record in await world.records.records()]
    assert kinds == ["rule.added", "token.refused"]


async def test_the_rules_of_a_restarted_broker_are_the_same(world: World) -> None:
    """What killed a token before a restart kills it after."""
    token = await world.issue()
    await world.revoke(agent="triage")
    rules = RuleIndex(await world.records.rules())
    assert rules.epoch == world.revocations.rules.epoch
    facts = token.claims.facts(world.signer.kid())
    assert parse_selector({"agent": "triage"}).selects(facts)
    assert rules.killer(facts, token.claims.epoch) is not None


async def test_a_burst_of_revocations_does_not_starve_issuing(world: World) -> None:
    """They are numbered to go into one transaction, so a request between them is decided again a few times at most."""
    answers = await asyncio.gather(*(world.revoke(token=f"tok_{n}") for n in range(60)), world.issue())
    assert [outcome.durable for outcome in answers[:-1] if isinstance(outcome, Outcome)] == [True] * 60
    assert world.revocations.rules.epoch == 60
