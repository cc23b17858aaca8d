"""Whether this process knows all that is in force when the others are on other hosts, so that nobody can tell it first.

What was looked up is believed for a while. The moment that counts is that before the look, by a clock that nobody sets
and that goes on while the host sleeps. So a process that is cut off from the database stops answering by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import Final, Protocol

from broker.core.errors import BrokerError, Code, Unavailable
from broker.timing import SYSTEM

LOOKS: Final = 4
"""How often the database is looked at within the time that a view is believed."""


class Wakes(Protocol):
    """What can say that it is worth while to look at once. Nothing is lost but time if it says nothing."""

    def close(self) -> None:
        """Say nothing any more."""
        ...


class RecentFreshness:
    """Implements ``Freshness`` for the replicas on one database. Belongs to the event loop that it is made in."""

    def __init__(
        self,
        max_staleness: float,
        look: Callable[[], Awaitable[object]],
        listen: Callable[[Callable[[], None]], Wakes],
        seconds: Callable[[], float] = SYSTEM.elapsed,
    ) -> None:
        """``look`` brings the view up to date, or raises; ``listen`` is given what wakes the watch, from any thread."""
        self._max_staleness = max_staleness
        self._look = look
        self._seconds = seconds
        self._confirmed = -inf
        self._looking: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._wakes = listen(lambda: _from_thread(loop, self._woken.set))
        self._watching = asyncio.ensure_future(self._watch())

    @property
    def age(self) -> float:
        """Seconds since the moment as of which the view is known to be complete."""
        return self._seconds() - self._confirmed

    async def ensure(self) -> None:
        """Return at once if the last look is young enough; else look, for as long as a look would be believed."""
        if self.age < self._max_staleness:
            return
        with suppress(TimeoutError, BrokerError):
            async with asyncio.timeout(self._max_staleness):
                await self._looked()
        if self.age >= self._max_staleness:
            text = "the rules in force cannot be read now, so that nothing can be said of any token"
            raise Unavailable(Code.RULES_STALE, text, retry_after=1)

    async def close(self) -> None:
        """Look no more."""
        self._watching.cancel()
        await asyncio.wait([self._watching])
        if self._looking is not None:
            await asyncio.wait([self._looking])
        await asyncio.to_thread(self._wakes.close)

    async def _watch(self) -> None:
        while True:
            self._woken.clear()
            with suppress(BrokerError):
                await self._looked()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._max_staleness / LOOKS):
                    await self._woken.wait()

    async def _looked(self) -> None:
        """Wait for a look, which all share who ask meanwhile. Raises what the look raises."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look_once())
            self._looking.add_done_callback(_heard)
        # One that gives up must not take the look away from the others.
        await asyncio.shield(self._looking)

    async def _look_once(self) -> None:
        before = self._seconds()
        await self._look()
        self._confirmed = max(self._confirmed, before)


def _from_thread(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody is left to be woken
        loop.call_soon_threadsafe(call)


def _heard(looked: asyncio.Task[None]) -> None:
    """Take note of a failure that nobody may have waited for."""
    if not looked.cancelled():
        looked.exception()
