"""The broker's public keys as this resource server knows them, and when they are fetched again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import inf
from typing import Final

from broker.core.jwk import KeySet
from broker.core.pacing import Timing

UNKNOWN_KID_SECONDS: Final = 60.0
"""Tokens signed with an unknown key cause at most one fetch in so many seconds, whoever sends them."""


class BrokerKeys:
    """The current key set; empty until the first fetch."""

    def __init__(self, fetch: Callable[[], Awaitable[KeySet]], timing: Timing) -> None:
        """``fetch`` asks the broker for its keys; it raises ``BrokerError`` if that fails."""
        self._fetch = fetch
        self._timing = timing
        self._current = KeySet(())
        self._asked_for_unknown = -inf
        self._flight: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def current(self) -> KeySet:
        """The keys that the broker published when it was last asked."""
        return self._current

    async def refresh(self) -> None:
        """Fetch the keys now, together with whoever else is waiting for that. Raises what the fetch raises."""
        if self._flight is None or self._flight.done():
            self._flight = asyncio.ensure_future(self._replace())
            self._flight.add_done_callback(lambda done: done.cancelled() or done.exception())
        flight = self._flight
        await asyncio.wait([flight])  # which, if this caller is cancelled, lets the fetch go on for the others
        if not flight.cancelled():
            flight.result()

    async def refresh_for_unknown(self) -> bool:
        """Fetch the keys because a caller's token names one that is not here; whether they were fetched.

        This is what strangers can make happen, so it is rare; what the broker itself signs causes :meth:`refresh`.
        """
        if self._closed:
            return False
        if self._flight is None or self._flight.done():
            now = self._timing.elapsed()
            if now - self._asked_for_unknown < UNKNOWN_KID_SECONDS:
                return False
            self._asked_for_unknown = now
        await self.refresh()
        return True

    async def close(self) -> None:
        """Stop a fetch that is under way; no token causes another one."""
        self._closed = True
        if self._flight is not None:
            self._flight.cancel()
            await asyncio.gather(self._flight, return_exceptions=True)

    async def _replace(self) -> None:
        self._current = await self._fetch()
