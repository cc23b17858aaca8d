"""Status lists of a ledger that several processes write."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broker.core.change import Change
from broker.core.errors import Refused, Unavailable
from broker.core.selector import Selector
from broker.core.status_list import id_at
from broker.ports import Listed, Place
from broker.status_lists import StatusLists
from tests.support.ledgers import NOW, Bench, family_bench, issued, opened, outcomes
from tests.support.status_list_reader import decoded, status_at

LIST = "tok_01M8QXKBGK84V1T7AXNBXWJ8BD"
OTHER = "tok_01M8QXKBGK84V1T7AXNBXWJ8BE"


def lists_of(bench: Bench) -> StatusLists:
    """Make lists of a ledger; what would be signed is the list itself."""
    return StatusLists(
        issuer="https://broker.example",
        records=bench.ledger,
        revocations=bench.revocations,
        sign=lambda payload, _now: str(payload["status_list"]["lst"]),
        clock=bench.clock,
    )


async def statuses(lists: StatusLists, *places: int) -> list[int]:
    """Return what a list says of some places."""
    bits = decoded(await lists.current(LIST))
    return [status_at(1, bits, place) for place in places]


async def test_a_process_tells_what_another_one_issued_and_revoked(tmp_path: Path) -> None:
    """Whoever is asked: after catching up, the list has every rule that anybody has committed."""
    async with family_bench(tmp_path / "ledger.db") as (one, other):
        lists = lists_of(other)
        await one.issue(id_at(LIST, 7), agent="alpha")
        await one.issue(id_at(LIST, 8), agent="beta")
        assert await statuses(lists, 7, 8) == [0, 0]
        await one.revoke(Selector(agent="alpha"))
        await other.ledger.freshness.ensure()
        assert await statuses(lists, 7, 8) == [1, 0]
        await one.issue(id_at(LIST, 9), agent="alpha")
        await other.revoke(Selector(agent="beta"))
        await one.ledger.freshness.ensure()
        assert await statuses(lists, 7, 8, 9) == await statuses(lists_of(one), 7, 8, 9) == [1, 1, 0]


async def test_what_is_lost_with_a_ledger_is_dead(place: Place) -> None:
    """After an older copy was accepted, places of which nothing is known any more are set as well."""
    async with opened(place) as bench:
        await bench.issue(id_at(LIST, 7))
        await bench.revoke(Selector(everything=True))
        assert await statuses(lists_of(bench), 7, 8, 131_071) == [1, 1, 1]
        await bench.issue(id_at(OTHER, 1))
        with pytest.raises(Refused):
            await lists_of(bench).current("tok_01M8QXKBGK84V1T7AXNBXWJ8BF")


async def test_only_tokens_are_in_lists(place: Place) -> None:
    """A reference that looks like a place is none, if what it names is no token."""
    async with opened(place) as bench:
        await bench.ledger.commit(Change(issued("x", 0).entry))
        assert await bench.ledger.listed("x") is None
        assert await bench.ledger.listed(LIST) is None
        await bench.issue(id_at(LIST, 7))
        assert await bench.ledger.listed(LIST) == Listed(NOW, 0)


async def test_many_tokens_and_rules_come_and_go_at_once(place: Place) -> None:
    """Whoever asks meanwhile never finds a token alive that was dead in an earlier answer."""
    async with opened(place) as bench:
        await outcomes(bench.ledger, [issued(id_at(LIST, number), 0, agent=f"a{number}") for number in range(60)])
        lists, seen = lists_of(bench), set[int]()

        async def ask() -> None:
            for _ in range(20):
                before = set(seen)
                bits = decoded(await lists.current(LIST))
                dead = {number for number in range(60) if status_at(1, bits, number)}
                assert before <= dead
                seen.update(dead)

        async def revoke() -> None:
            for number in range(40):
                await bench.revoke(Selector(agent=f"a{number}"))
                bits = decoded(await lists.current(LIST))
                assert status_at(1, bits, number)

        await asyncio.gather(revoke(), ask(), ask())
        assert await statuses(lists, *range(60)) == [1] * 40 + [0] * 20


async def test_a_store_that_cannot_be_read_gives_no_list(place: Place) -> None:
    """It says so."""
    async with opened(place) as bench:
        await bench.issue(id_at(LIST, 7))
        lists = lists_of(bench)
    with pytest.raises(Unavailable):
        await lists.current(LIST)
