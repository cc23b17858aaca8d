"""The two ways to count hits agree with the rules' own semantics, for any tokens, rules and selectors."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.core.rules import Rule, RuleIndex
from broker.core.selector import Selector
from broker.ledger.reading import hits
from broker.ports import Hits
from tests.support.ledgers import NOW, Bench, issued, opened, outcomes

names = st.sampled_from(["a", "b"])
optional = st.none() | names
tokens = st.lists(
    st.fixed_dictionaries(
        {
            "epoch": st.integers(0, 4),
            "expires_at": st.sampled_from([int(NOW), int(NOW) + 1, int(NOW) + 900]),
            "agent": names,
            "role": names,
            "task": optional,
            "scope": st.sampled_from(["a", "b", "a b", "aa", None]),
            "key": optional,
            "bound_key": optional,
        }
    ),
    max_size=12,
)
selectors = st.one_of(
    st.just(Selector(everything=True)),
    st.fixed_dictionaries({}, optional=dict.fromkeys(("agent", "role", "task", "scope", "key", "lease"), names))
    .filter(bool)
    .map(lambda chosen: Selector(**chosen)),  # type: ignore[arg-type]
)
rules = st.lists(st.tuples(selectors, st.none() | st.integers(1, 5)), max_size=4)


@given(tokens, rules, selectors, st.none() | st.integers(1, 5))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_both_ways_of_counting_agree_with_the_rules(
    issued_tokens: list[dict[str, Any]],
    made: list[tuple[Selector, int | None]],
    selector: Selector,
    before: int | None,
) -> None:
    """A token counts iff it lives, is selected, is below ``before``, and no rule (below ``before``) kills it."""
    live = [Rule(f"rule_{n}", chosen, number, NOW, "op", "x") for n, (chosen, number) in enumerate(made)]
    with tempfile.TemporaryDirectory() as folder:
        counted = asyncio.run(count(Path(folder) / "ledger.db", issued_tokens, live, selector, before))
    expected = [
        token
        for token in issued_tokens
        if token["expires_at"] > NOW
        and selector.selects(facts(token) | {("everything", "*")})
        and (before is None or token["epoch"] < before)
        and RuleIndex(r for r in live if before is None or r.rank < before).killer(facts(token), token["epoch"]) is None
    ]
    wanted = Hits(
        len(expected),
        len({token["task"] for token in expected} - {None}),
        len({token["agent"] for token in expected}),
        max((token["expires_at"] for token in expected), default=None),
    )
    assert counted == [wanted, wanted]


async def count(
    path: Path, issued_tokens: list[dict[str, Any]], live: list[Rule], selector: Selector, before: int | None
) -> list[Hits]:
    """Commit the tokens and count them in both ways."""
    async with opened(path) as bench:
        changes = [issued(f"tok_{n}", **token) for n, token in enumerate(issued_tokens)]
        unguarded = [type(change)(change.entry) for change in changes]
        await outcomes(bench.ledger, unguarded)
        return [await counted_with(bench, live, selector, before, limit) for limit in (100, -1)]


async def counted_with(bench: Bench, live: list[Rule], selector: Selector, before: int | None, limit: int) -> Hits:
    """Count with at most ``limit`` rules in SQL."""
    return await bench.ledger._reader.read(
        lambda connection: hits.count(connection, selector, NOW, before, live, rules_in_sql=limit)
    )


def facts(token: dict[str, Any]) -> frozenset[tuple[str, str]]:
    """Return the facts of a token, as its claims would have them."""
    single = {(name, token[name]) for name in ("agent", "role", "task") if token[name]}
    keys = {("key", key) for key in (token["key"], token["bound_key"]) if key}
    scopes = {("scope", scope) for scope in (token["scope"] or "").split()}
    others = {("tier", "read"), ("issuer", "cluster"), ("audience", "https://tickets.example")}
    return frozenset(single | keys | scopes | others)
