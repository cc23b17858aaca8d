"""What is remembered of who is there: the newest word of each, for all processes, and no longer than is asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from broker.core.errors import Unavailable
from broker.core.propagation import Replica, Verifier
from broker.ports import Acknowledged, Left, Place
from tests.support.ledgers import Bench, opened

REPLICA = Replica(id="rep_1", host="h", pid=7, version="0.1.0", policy="sha256:0", epoch=3, max_staleness=1.0)


def ack(name: str = "gw-1", epoch: int = 3, max_age: float = 15.0, agent: str = "gateway") -> Acknowledged:
    """Return an acknowledgement."""
    return Acknowledged(agent, name, epoch, max_age)


async def age(bench: Bench, seconds: float) -> None:
    """Make everything that was heard so far older."""

    def work(connection: Any) -> None:  # noqa: ANN401 - a connection
        for table in ("verifiers", "replicas"):
            connection.execute(text(f"UPDATE {table} SET seen_at = seen_at - {seconds}, since = since - {seconds}"))  # noqa: S608

    await bench.ledger._group.run(work)


async def verifiers(bench: Bench) -> list[tuple[str, str, int, float]]:
    """Return who is remembered, without times."""
    return [(each.agent, each.name, each.epoch, each.max_age) for each in (await bench.ledger.present()).verifiers]


async def test_the_newest_word_of_each_verifier_counts(place: Place) -> None:
    """Agents do not share names; an older epoch only shows that somebody is there, and says nothing of a bound."""
    async with opened(place) as bench:
        await bench.ledger.heard([ack("b", 3), ack("a", 3), ack("a", 9, agent="other")])
        await bench.ledger.heard([ack("a", 4, 20.0), ack("b", 2, 600.0)])
        assert await verifiers(bench) == [("gateway", "a", 4, 20.0), ("gateway", "b", 3, 15.0), ("other", "a", 9, 15.0)]
        await bench.ledger.heard([Left("gateway", "a"), Left("gateway", "nobody"), ack("b", 3, 5.0)])
        assert await verifiers(bench) == [("gateway", "b", 3, 5.0), ("other", "a", 9, 15.0)]


async def test_for_how_long_nothing_was_heard(place: Place) -> None:
    """A word of any sort ends the silence; a clock that was set back makes nobody younger than just heard."""
    async with opened(place) as bench:
        await bench.ledger.heard([ack()])
        await age(bench, 100.0)
        (silent,) = (await bench.ledger.present()).verifiers
        assert 100 <= silent.silent < 160
        assert silent.known >= 100
        await bench.ledger.heard([ack(epoch=1)])
        (heard,) = (await bench.ledger.present()).verifiers
        assert heard.silent < 60 < heard.known
        await age(bench, -5000.0)
        (ahead,) = (await bench.ledger.present()).verifiers
        assert (ahead.silent, ahead.known) == (0.0, 0.0)


async def test_replicas_tell_of_themselves(place: Place) -> None:
    """Each the newest, with when it came; until it leaves."""
    async with opened(place) as bench:
        await bench.ledger.tell(REPLICA)
        await age(bench, 50.0)
        await bench.ledger.tell(replace(REPLICA, epoch=4))
        await bench.ledger.tell(replace(REPLICA, id="rep_2"))
        found = (await bench.ledger.present()).replicas
        assert [replace(each, silent=0.0, known=0.0) for each in found] == [
            replace(REPLICA, epoch=4),
            replace(REPLICA, id="rep_2"),
        ]
        assert found[0].silent < 50 <= found[0].known
        await bench.ledger.leave("rep_1")
        await bench.ledger.leave("rep_9")
        assert [each.id for each in (await bench.ledger.present()).replicas] == ["rep_2"]


async def test_the_silent_are_forgotten(place: Place) -> None:
    """By the database's clock, replicas as well."""
    async with opened(place) as bench:
        await bench.ledger.heard([ack("old")])
        await bench.ledger.tell(REPLICA)
        await age(bench, 1000.0)
        await bench.ledger.heard([ack("new")])
        now = await bench.ledger.moment()
        assert await bench.ledger.forget_silent(now - 1100) == 0
        assert await bench.ledger.forget_silent(now - 900) == 2
        assert await verifiers(bench) == [("gateway", "new", 3, 15.0)]


async def test_presence_is_no_record(place: Place) -> None:
    """It outlives a process, changes nothing that is verified, and adds no entry."""
    async with opened(place) as bench:
        await bench.ledger.heard([ack()])
        await bench.ledger.tell(REPLICA)
        assert bench.ledger.size == 0
    async with opened(place) as bench:
        await bench.verified()
        present = await bench.ledger.present()
        assert [each.label for each in present.verifiers] == ["gateway#gw-1"]
        assert isinstance(present.verifiers[0], Verifier)


async def test_a_thousand_at_once(place: Place) -> None:
    """In one transaction."""
    async with opened(place) as bench:
        await bench.ledger.heard([ack(f"gw-{number}", 5) for number in range(1000)])
        await bench.ledger.heard([ack(f"gw-{number}", 6) for number in range(1000)])
        assert {each[2] for each in await verifiers(bench)} == {6}
        assert len(await verifiers(bench)) == 1000


async def test_a_store_that_is_closed_says_so(place: Place) -> None:
    """As for everything else."""
    async with opened(place) as bench:
        pass
    with pytest.raises(Unavailable):
        await bench.ledger.present()
    with pytest.raises(Unavailable):
        await bench.ledger.heard([ack()])
