"""Periodic work of a running broker: each job at its own pace, none able to stop another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from broker.core.errors import BrokerError, Code
from broker.ports import Events


@dataclass(frozen=True, slots=True)
class Job:
    """Something to do every ``seconds``, after the last time has ended.

    ``alone`` says that of all processes of a ledger only the one that leads does it.
    """

    name: str
    seconds: float
    run: Callable[[], Awaitable[object]]
    alone: bool = False


class Upkeep:
    """Runs jobs in the background until it is closed."""

    def __init__(self, jobs: Sequence[Job], events: Events, *, leads: Callable[[], bool]) -> None:
        """Nothing runs before :meth:`start`. ``leads`` says whether this process leads now."""
        self._leads = leads
        self._jobs = tuple(jobs)
        self._events = events
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start every job; the first run of each comes after its pause."""
        self._tasks = [asyncio.create_task(self._repeat(job), name=job.name) for job in self._jobs]

    async def close(self) -> None:
        """Stop all jobs and wait until they have ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _repeat(self, job: Job) -> None:
        """Do a job again and again; what fails for hours for the same reason is told once."""
        told: Code | None = None
        while True:
            await asyncio.sleep(job.seconds)
            if job.alone and not self._leads():
                continue
            try:
                await job.run()
                told = None
            except BrokerError as error:
                if error.code is not told:
                    self._events.error("upkeep.failed", job=job.name, code=error.code.value)
                told = error.code
            except Exception as error:  # noqa: BLE001 - a job that fails must not end the others, nor itself
                self._events.error("upkeep.failed", job=job.name, exc_info=error)
