"""A view of a database that others write is believed for a while from before the look, and not a moment longer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from broker.core.errors import BrokerError, Code, Unavailable
from broker.ledger.sharing.recent import RecentFreshness
from tests.support.until import until

NEVER = 1e9


class Database:
    """What is looked at, and the clock; a look takes until it is let go, and by its end so many seconds."""

    def __init__(self, max_staleness: float = NEVER) -> None:
        self.time = 0.0
        self.looks = 0
        self.takes = 0.0
        self.failure: BrokerError | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.begun = asyncio.Event()
        self.wake: Callable[[], None] = lambda: None
        self.listening = True
        self.freshness = RecentFreshness(max_staleness, self._look, self._listen, lambda: self.time)

    async def _look(self) -> None:
        self.looks += 1
        self.begun.set()
        await self.go_on.wait()
        self.time += self.takes
        if self.failure is not None:
            raise self.failure

    def _listen(self, wake: Callable[[], None]) -> Database:
        self.wake = wake
        return self

    def close(self) -> None:
        """Implement ``Wakes``."""
        self.listening = False

    async def looked(self) -> None:
        """Wait for the end of the first look of the watch."""
        await until(lambda: self.freshness.age < NEVER)


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    """One that is looked at by the watch at its start, and then only when something wakes it."""
    made = Database()
    await made.looked()
    yield made
    made.go_on.set()
    await made.freshness.close()


async def test_a_young_view_costs_no_look(database: Database) -> None:
    """Up to the last moment of its age."""
    before = database.looks
    database.time += NEVER - 1
    await database.freshness.ensure()
    assert database.looks == before


async def test_age_counts_from_before_the_look(database: Database) -> None:
    """What was committed while it was looked at may be missing in it."""
    database.time += NEVER
    database.takes = 7.0
    await database.freshness.ensure()
    assert database.freshness.age == 7.0


async def test_a_look_that_took_too_long_confirms_nothing(database: Database) -> None:
    """Its process may have been stopped in the middle: the view is as old as the moment that it began."""
    database.time += NEVER
    database.takes = NEVER
    with pytest.raises(Unavailable) as caught:
        await database.freshness.ensure()
    assert caught.value.code is Code.RULES_STALE


async def test_who_was_suspended_looks_first(database: Database) -> None:
    """The clock goes on in suspension, so that the view is old at once."""
    before = database.looks
    database.time += 3 * NEVER
    await database.freshness.ensure()
    assert database.looks == before + 1


@pytest.mark.parametrize("code", [Code.LEDGER_UNAVAILABLE, Code.LEDGER_CORRUPT])
async def test_a_look_that_fails_is_no_answer(database: Database, code: Code) -> None:
    """And the next that asks looks again."""
    database.time += NEVER
    database.failure = Unavailable(code, "no")
    with pytest.raises(Unavailable) as caught:
        await database.freshness.ensure()
    assert (caught.value.code, caught.value.retry_after) == (Code.RULES_STALE, 1)
    database.failure = None
    await database.freshness.ensure()


async def test_a_failure_takes_no_age_from_a_young_view(database: Database) -> None:
    """What was confirmed is believed to its end, whatever fails meanwhile."""
    database.failure = Unavailable(Code.LEDGER_UNAVAILABLE, "no")
    database.begun.clear()
    database.wake()
    await database.begun.wait()
    await database.freshness.ensure()


async def test_many_share_a_look_and_one_that_gives_up_leaves_it_to_them(database: Database) -> None:
    """However many ask at the same moment, the database is asked once."""
    database.time += NEVER
    database.go_on.clear()
    database.begun.clear()
    before = database.looks
    asking = [asyncio.ensure_future(database.freshness.ensure()) for _ in range(10)]
    await database.begun.wait()
    asking[0].cancel()
    database.go_on.set()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(each) for each in results] == [asyncio.CancelledError, *[type(None)] * 9]
    assert database.looks == before + 1


async def test_what_wakes_it_makes_it_look(database: Database) -> None:
    """From any thread, and as often as it likes."""
    database.begun.clear()
    await asyncio.to_thread(lambda: [database.wake() for _ in range(5)])
    await database.begun.wait()


async def test_a_database_that_does_not_answer_is_not_waited_for() -> None:
    """Whoever asks is refused after as long as a look would be believed, though the look goes on."""
    database = Database(0.05)
    database.go_on.clear()
    with pytest.raises(Unavailable) as caught:
        await database.freshness.ensure()
    assert caught.value.code is Code.RULES_STALE
    database.go_on.set()
    await database.freshness.ensure()
    await database.freshness.close()


async def test_a_lost_word_costs_no_more_than_a_part_of_the_age() -> None:
    """Nothing wakes it, and it looks again and again."""
    database = Database(0.05)
    while database.looks < 4:
        database.begun.clear()
        await database.begun.wait()
    await database.freshness.close()


async def test_after_it_is_closed_it_looks_no_more() -> None:
    """Nor does it listen; to be woken still is no error, not even when the loop is gone."""
    database = Database(0.05)
    await database.freshness.close()
    looks = database.looks
    database.wake()
    await asyncio.sleep(0)
    assert (database.looks, database.listening) == (looks, False)
