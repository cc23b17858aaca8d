"""Waiting for what real sockets and the program under test bring about."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that must come true; the test's own time-out is the bound."""
    while not condition():  # noqa: ASYNC110 - a condition of real sockets and of the program under test
        await asyncio.sleep(0.001)
