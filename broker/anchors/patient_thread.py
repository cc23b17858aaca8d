"""One thread for calls that may hang for ever, such as those to a file system that is not there any more.

It is a daemon: a process that ends does not wait for it, as it would for the threads of an executor.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Full, Queue
from typing import Any, Final, TypeVar

from broker.core.errors import AnchorFailed, Code

MOST_WAITING: Final = 8
"""How many calls may wait behind the one that runs; one more is refused at once."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Call:
    """What is to be run, and who waits for it on which loop."""

    work: Callable[[], Any]
    answer: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop

    def run(self) -> None:
        """Run it, unless nobody waits any more, and answer."""
        if self.answer.cancelled():
            return
        try:
            result = self.work()
        except Exception as error:  # noqa: BLE001 - every failure is somebody's answer
            self._deliver(self.answer.set_exception, error)
        else:
            self._deliver(self.answer.set_result, result)

    def _deliver(self, answer: Callable[[Any], None], value: object) -> None:
        try:
            self.loop.call_soon_threadsafe(lambda: None if self.answer.done() else answer(value))
        except RuntimeError:
            return  # the loop is closed: nobody is left to be told


class PatientThread:
    """Runs calls one after the other, each waited for only so long."""

    def __init__(self, name: str, *, seconds: float) -> None:
        """``seconds`` is how long a call is waited for, its time in the queue included. ``name`` is the thread's."""
        self._name = name
        self._seconds = seconds
        self._calls: Queue[_Call | None] = Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._closed = False

    async def run(self, work: Callable[[], T]) -> T:
        """Run a call and return its result, or raise what it raises.

        Raises ``AnchorFailed`` (``ANCHOR_UNAVAILABLE``) when it takes too long, when too many wait, or when it is
        closed. A call that has begun goes on.
        """
        if self._closed:
            raise AnchorFailed(Code.ANCHOR_UNAVAILABLE, "it is closed")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        try:
            self._calls.put_nowait(_Call(work, answer, loop))
            return await asyncio.wait_for(answer, self._seconds)
        except (Full, TimeoutError) as error:
            raise AnchorFailed(Code.ANCHOR_UNAVAILABLE, "it did not answer in time") from error

    def close(self) -> None:
        """Let the thread end, once what it does comes to an end. May be called twice."""
        if self._closed:
            return
        self._closed = True
        try:
            self._calls.put_nowait(None)
        except Full:
            return  # it hangs; being a daemon, it keeps nobody

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call.run()
