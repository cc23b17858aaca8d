"""A status list says of every token what the rules themselves say, whatever is issued and revoked in which order."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.core.rules import Rule
from broker.core.selector import Fact, Selector, read_facts
from broker.core.status_list import id_at
from broker.ledger.reading import status_lists
from broker.status_lists import StatusLists
from tests.support.ledgers import NOW, Bench, opened
from tests.support.status_list_reader import decoded, status_at

Issued = tuple[frozenset[Fact], int]
"""What selectors match of a token, and its epoch."""

LISTS = ("tok_01M8QXKBGK84V1T7AXNBXWJ8BD", "tok_01M8QXKBGK84V1T7AXNBXWJ8BE")
names = st.sampled_from(["a", "b"])
issuing = st.fixed_dictionaries(
    {
        "place": st.tuples(st.sampled_from(LISTS), st.integers(0, 40)),
        "agent": names,
        "role": names,
        "scope": st.sampled_from(["a", "b", "a b", "aa"]),
        "lineage": st.sampled_from([None, "\nagent=a\n", "\nagent=b\nrole=b\n"]),
        "seconds": st.sampled_from([1, 900]),
    }
)
revoking = (
    st.fixed_dictionaries({}, optional=dict.fromkeys(("agent", "role", "scope", "lease"), names))
    .filter(bool)
    .map(lambda chosen: Selector(**chosen))  # type: ignore[arg-type]
)
steps = st.lists(st.one_of(issuing, revoking, st.sampled_from(["look", "restart"])), max_size=14)


@given(steps, st.sampled_from([40, -1]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_list_is_what_the_rules_say(course: list[object], rules_in_sql: int) -> None:
    """A bit is set iff a rule kills the token at its place; both with few rules at once and with many."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_go(Path(folder) / "ledger.db", course, rules_in_sql))


async def _go(path: Path, course: list[object], rules_in_sql: int) -> None:
    given_places: dict[tuple[str, int], Issued] = {}
    async with opened(path) as bench:
        lists = _lists(bench, rules_in_sql)
        for step in [*course, "look", "restart", "look"]:
            if isinstance(step, Selector):
                await bench.revoke(step)
            elif isinstance(step, dict) and step["place"] not in given_places:
                given_places[step["place"]] = await _issue(bench, step)
            elif step == "look":
                await _compare(bench, lists, given_places)
            elif step == "restart":
                lists = _lists(bench, rules_in_sql)


async def _issue(bench: Bench, step: dict[str, Any]) -> Issued:
    members = {name: step[name] for name in ("agent", "role", "scope", "lineage") if step[name] is not None}
    await bench.issue(id_at(*step["place"]), expires_at=int(NOW) + step["seconds"], **members)
    facts = {("agent", step["agent"]), ("role", step["role"]), *(("scope", one) for one in step["scope"].split())}
    return frozenset(facts | read_facts(step["lineage"] or "")), bench.epoch


async def _compare(bench: Bench, lists: StatusLists, given_places: dict[tuple[str, int], Issued]) -> None:
    for list_id in {list_id for list_id, _ in given_places}:
        bits = decoded(await lists.current(list_id))
        for place in range(41):
            facts, epoch = given_places.get((list_id, place), (frozenset(), bench.epoch))
            assert status_at(1, bits, place) == (bench.revocations.rules.killer(facts, epoch) is not None)


class _Records:
    """The ledger's own look-up, with another limit of rules in one statement."""

    def __init__(self, bench: Bench, rules_in_sql: int) -> None:
        self.listed = bench.ledger.listed
        self._bench = bench
        self._limit = rules_in_sql

    async def dead_in(self, list_id: str, rules: Sequence[Rule], now: float) -> bytes:
        return await self._bench.ledger._reader.read(
            lambda connection: status_lists.dead_in(connection, list_id, rules, now, rules_in_sql=self._limit)
        )


def _lists(bench: Bench, rules_in_sql: int) -> StatusLists:
    """Make lists as the broker does, but for signing them."""
    return StatusLists(
        issuer="https://broker.example",
        records=_Records(bench, rules_in_sql),
        revocations=bench.revocations,
        sign=lambda payload, _now: str(payload["status_list"]["lst"]),
        clock=bench.clock,
    )
