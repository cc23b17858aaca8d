"""Work that goes on to its end whatever becomes of whoever began it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """What is under way. Belongs to one event loop."""

    def __init__(self) -> None:
        """Nothing is under way."""
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin something; being kept here keeps a running task from being collected."""
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin something that nobody waits for."""
        _ = self.start(work)

    async def to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something that goes on although its caller is cancelled."""
        return await asyncio.shield(self.start(work))

    async def finish(self) -> None:
        """Wait for everything that is under way."""
        await asyncio.gather(*self._running, return_exceptions=True)

    async def cancel(self) -> None:
        """End everything that is under way, and wait until it has ended."""
        for task in tuple(self._running):
            task.cancel()
        await self.finish()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for it gets it; nobody waiting is no fault to report
