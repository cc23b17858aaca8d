"""A bounded pool of threads for clients that are not asynchronous: no call waits for ever, and none piles up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from broker.core.errors import BackendFailed, Code

SLACK_SECONDS: Final = 5.0
"""How much longer than its own time-outs a call may take before nobody waits for it any more."""

T = TypeVar("T")


class Workers:
    """Runs blocking calls in at most ``count`` threads. A call that nobody waits for any more keeps its thread."""

    def __init__(self, name: str, *, count: int, seconds: float) -> None:
        """``name`` is the backend's; ``seconds`` is how long one call is waited for, its time in the queue included."""
        self._name = name
        self._seconds = seconds
        self._pool = ThreadPoolExecutor(max_workers=count, thread_name_prefix=f"backend-{name}")

    async def run(self, call: Callable[[], T], *, seconds: float | None = None) -> T:
        """Run a call and return its result.

        Raises ``BackendFailed`` (``BACKEND_UNAVAILABLE``, uncertain if it was begun) when it takes too long, or when
        the pool is closed. If the caller is cancelled, a call that has begun goes on to its end in its thread.
        """
        try:
            future = self._pool.submit(call)
        except RuntimeError as error:
            raise BackendFailed(Code.BACKEND_UNAVAILABLE, f"the backend {self._name} is closed") from error
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), seconds or self._seconds + SLACK_SECONDS)
        except TimeoutError as error:
            begun = not future.cancelled()
            text = f"the backend {self._name} did not answer in time"
            raise BackendFailed(Code.BACKEND_UNAVAILABLE, text, uncertain=begun, retry_after=5) from error

    async def close(self) -> None:
        """Take no more calls. Those that run go on to their own time-outs."""
        self._pool.shutdown(wait=False, cancel_futures=True)
