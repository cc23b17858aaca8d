"""Tokens whose leases are over: good for nothing, and held by nobody, but kept by Vault until their time is over.

To end one costs Vault more than to end a lease. So that is done afterwards, while nothing urgent is under way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from broker.core.errors import BackendFailed

MAX_SPENT: Final = 10_000
"""So many wait to be ended. More than that, the oldest end by themselves, with the time that they were made for."""

BUSY_SECONDS: Final = 0.1
"""Between two of them while leases are being ended."""

TROUBLE_SECONDS: Final = 5.0
"""After one that could not be ended."""


class SpentTokens:
    """Ends tokens one after the other, in the background. Belongs to one event loop."""

    def __init__(
        self,
        end: Callable[[str], Awaitable[None]],
        is_busy: Callable[[], bool],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``end`` ends a token by its accessor; ``is_busy`` says whether that should wait for something else."""
        self._end = end
        self._is_busy = is_busy
        self._sleep = sleep
        self._accessors: deque[str] = deque(maxlen=MAX_SPENT)
        self._working: asyncio.Task[None] | None = None

    def add(self, accessor: str) -> None:
        """Have a token ended soon. If that fails, it ends by itself."""
        self._accessors.append(accessor)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work(), name="ending spent tokens")

    async def close(self) -> None:
        """Stop; those that are left end by themselves."""
        self._accessors.clear()
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)

    async def _work(self) -> None:
        while self._accessors:
            if self._is_busy():
                await self._sleep(BUSY_SECONDS)
            try:
                await self._end(self._accessors.popleft())
            except BackendFailed:
                await self._sleep(TROUBLE_SECONDS)
