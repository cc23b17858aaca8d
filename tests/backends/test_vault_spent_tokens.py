"""Tokens whose leases are over: ended one by one, when there is time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from broker.backends.vault_spent_tokens import BUSY_SECONDS, MAX_SPENT, TROUBLE_SECONDS, SpentTokens
from broker.core.errors import BackendFailed, Code
from tests.support.virtual_time import VirtualTime


class Ending:
    """Ends tokens, and remembers which and how many at once; those in ``fails`` cannot be ended."""

    def __init__(self, *fails: str) -> None:
        self.ended: list[str] = []
        self.at_once = self.most = 0
        self.fails = fails

    async def __call__(self, accessor: str) -> None:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if accessor in self.fails:
            raise BackendFailed(Code.BACKEND_UNAVAILABLE, "not now")
        self.ended.append(accessor)


async def until(holds: Callable[[], bool]) -> None:
    """Let the others go on until something holds."""
    for _ in range(10 * MAX_SPENT):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError


async def test_all_are_ended_one_after_the_other_without_a_pause() -> None:
    """Nothing else is under way."""
    ending, time = Ending(), VirtualTime()
    spent = SpentTokens(ending, lambda: False, sleep=time.sleep)
    for number in range(20):
        spent.add(str(number))
    await until(lambda: len(ending.ended) == 20)
    spent.add("later")
    await until(lambda: len(ending.ended) == 21)
    assert ending.ended == [*map(str, range(20)), "later"]
    assert (ending.most, time.slept) == (1, [])
    await spent.close()


async def test_while_leases_are_being_ended_they_take_their_time() -> None:
    """A revocation of very many goes first, but nothing is put off for ever."""
    ending, time = Ending(), VirtualTime()
    spent = SpentTokens(ending, lambda: True, sleep=time.sleep)
    for number in range(5):
        spent.add(str(number))
    await until(lambda: len(ending.ended) == 5)
    assert time.slept == [BUSY_SECONDS] * 5
    await spent.close()


async def test_one_that_cannot_be_ended_is_left_to_its_own_end() -> None:
    """And the next one is tried a while later: the server may be away."""
    ending, time = Ending("1"), VirtualTime()
    spent = SpentTokens(ending, lambda: False, sleep=time.sleep)
    for number in range(3):
        spent.add(str(number))
    await until(lambda: len(ending.ended) == 2)
    assert ending.ended == ["0", "2"]
    assert time.slept == [TROUBLE_SECONDS]
    await spent.close()


async def test_not_more_than_so_many_are_remembered() -> None:
    """The oldest are the nearest to their own end."""
    ending = Ending()
    spent = SpentTokens(ending, lambda: False)
    for number in range(MAX_SPENT + 3):
        spent.add(str(number))
    await until(lambda: len(ending.ended) == MAX_SPENT)
    assert ending.ended[0] == "3"
    await spent.close()


async def test_closing_ends_none_any_more() -> None:
    """They end by themselves."""
    ending, time = Ending(), VirtualTime(flows=False)
    spent = SpentTokens(ending, lambda: True, sleep=time.sleep)
    spent.add("0")
    await until(lambda: time.sleepers == 1)
    await spent.close()
    time.advance(60)
    await asyncio.sleep(0)
    assert ending.ended == []
