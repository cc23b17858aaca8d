"""Clocks that tests move: nothing waits for real."""

import asyncio

from broker.core.pacing import Timing

START = 1_795_300_000.0


class VirtualTime:
    """A wall clock and an elapsed clock that move together, unless a test steps the wall clock alone.

    With ``flows``, sleeping moves time on at once; otherwise a sleeper waits until :meth:`advance` passes its hour.
    """

    def __init__(self, *, flows: bool = True, spread: float = 0.5) -> None:
        self.wall = START
        self.elapsed = 1_000.0
        self.slept: list[float] = []
        self.spread = spread
        self._flows = flows
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    def timing(self) -> Timing:
        return Timing(
            wall=lambda: self.wall, elapsed=lambda: self.elapsed, sleep=self.sleep, spread=lambda: self.spread
        )

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.elapsed += seconds
        for until, event in self._sleepers:
            if until <= self.elapsed:
                event.set()
        self._sleepers = [(until, event) for until, event in self._sleepers if not event.is_set()]

    @property
    def sleepers(self) -> int:
        return len(self._sleepers)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if self._flows:
            self.advance(seconds)
            await asyncio.sleep(0)
            return
        event = asyncio.Event()
        sleeper = (self.elapsed + seconds, event)
        self._sleepers.append(sleeper)
        try:
            await event.wait()
        finally:
            if sleeper in self._sleepers:
                self._sleepers.remove(sleeper)
