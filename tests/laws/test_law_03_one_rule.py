"""Law 3: one revocation is one rule, whatever it hits; checking a token does not depend on how many are alive."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from broker.core.rules import Rule, RuleIndex
from broker.core.selector import Fact, Selector
from tests.support.fakes import NOW
from tests.support.ledgers import issued
from tests.support.world import World

TABLES = ("entries", "rules", "blocks", "single_use", "rates", "agents", "enrollments", "keys")


def rows(file: Path) -> dict[str, int]:
    """Count the rows of every table."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as other:
        return {table: other.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES}  # noqa: S608


@pytest.mark.parametrize("tokens", [1, 3000])
async def test_a_revocation_writes_one_entry_and_one_rule(world: World, file: Path, tokens: int) -> None:
    """For one token or for thousands: the same two rows."""
    await asyncio.gather(*(world.ledger.commit(issued(f"tok_{n}", 0, at=NOW)) for n in range(tokens)))
    before = rows(file)
    outcome = await world.revoke(agent="cluster/support/triage")
    after = rows(file)
    assert {table: after[table] - before[table] for table in TABLES if after[table] != before[table]} == {
        "entries": 1,
        "rules": 1,
    }
    assert outcome.rule.number == 1
    shown = await world.revocation.outcome(outcome.rule)
    assert shown.hits is not None
    assert shown.hits.tokens == tokens


@pytest.mark.parametrize("rules", [1, 10_000])
def test_checking_looks_at_the_tokens_own_facts_only(rules: int) -> None:
    """However many rules are live, one look-up for each of the token's facts."""

    class Watched(dict[Fact, float]):
        asked = 0

        def get(self, key: Fact, default: float = 0) -> float:  # type: ignore[override]
            Watched.asked += 1
            return super().get(key, default)

    index = RuleIndex(Rule(f"r{n}", Selector(token=f"other-{n}"), n, 0.0, "op", "r") for n in range(1, rules + 1))
    index._highest = Watched(index._highest)
    Watched.asked = 0
    facts: frozenset[Fact] = frozenset({("token", "t"), ("agent", "a"), ("role", "r"), ("scope", "s")})
    assert index.killer(facts, 0) is None
    assert Watched.asked == len(facts) + 1
