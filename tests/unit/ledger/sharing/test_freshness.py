"""What is announced is known before anybody judges, at the least cost."""

from __future__ import annotations

import asyncio

import pytest

from broker.core.errors import Code, Unavailable
from broker.ledger.sharing.freshness import AnnouncedFreshness


class Ledger:
    """What others have announced and committed, and what this process knows; a look takes until it is let go."""

    def __init__(self) -> None:
        self.announced = self.committed = self.known = self.looks = 0
        self.failure: Unavailable | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.freshness = AnnouncedFreshness(lambda: self.announced, lambda: self.known, self._look)

    async def _look(self) -> None:
        self.looks += 1
        found = self.committed
        await self.go_on.wait()
        if self.failure is not None:
            raise self.failure
        self.known = max(self.known, found)


async def test_nothing_is_looked_up_that_is_known() -> None:
    """Judging costs a comparison."""
    ledger = Ledger()
    ledger.announced = ledger.committed = ledger.known = 7
    await ledger.freshness.ensure()
    assert ledger.looks == 0


async def test_many_share_a_look() -> None:
    """However many ask at the same time."""
    ledger = Ledger()
    ledger.announced = ledger.committed = 7
    await asyncio.gather(*(ledger.freshness.ensure() for _ in range(50)))
    assert (ledger.known, ledger.looks) == (7, 1)


async def test_a_look_that_began_before_is_not_enough() -> None:
    """What was committed after it began, and before somebody asked, is looked up by another one."""
    ledger = Ledger()
    ledger.announced = ledger.committed = 7
    ledger.go_on.clear()
    first = asyncio.create_task(ledger.freshness.ensure())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert ledger.looks == 1
    ledger.announced = ledger.committed = 9
    second = asyncio.create_task(ledger.freshness.ensure())
    await asyncio.sleep(0)
    ledger.go_on.set()
    await second
    assert ledger.known == 9
    await first


async def test_what_was_announced_in_vain_ends_the_looking() -> None:
    """Its writer died before the commit: two looks at most, and an answer."""
    ledger = Ledger()
    ledger.announced, ledger.committed = 9, 7
    await ledger.freshness.ensure()
    assert (ledger.known, ledger.looks) == (7, 2)


async def test_who_gives_up_leaves_the_look_to_the_others() -> None:
    """A cancelled request takes nothing from those that wait with it."""
    ledger = Ledger()
    ledger.announced = ledger.committed = 7
    ledger.go_on.clear()
    impatient, patient = (asyncio.create_task(ledger.freshness.ensure()) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    ledger.go_on.set()
    await patient
    assert (ledger.known, ledger.looks) == (7, 1)


async def test_without_a_look_there_is_no_answer() -> None:
    """The reason has a code of its own; when the store is back, so are the answers."""
    ledger = Ledger()
    ledger.announced = ledger.committed = 7
    ledger.failure = Unavailable(Code.LEDGER_UNAVAILABLE, "the disk reports an error")
    with pytest.raises(Unavailable) as caught:
        await ledger.freshness.ensure()
    assert caught.value.code is Code.RULES_STALE
    ledger.failure = None
    await ledger.freshness.ensure()
    assert ledger.known == 7
