"""How much is asked of this process, and what must wait or is turned away so that what matters gets through.

All requests share one event loop and one interpreter, and a commit is made in a thread. So the honest measure of load
is what such a thread and the loop have to wait for each other: the time that a trip to a thread and back takes, which
has nothing to do there. While that lag is above a target, requests of a kind are let in up to a limit of how many may
be under way, and the limit shrinks; while it is not, the limit grows. A limit of what is under way, unlike a rate,
adapts to what requests cost; those that only wait for a backend make no lag, and are not limited. One late turn says
nothing (a collection of garbage, a busy neighbour), so the middle one of some samples counts.

To give way costs throughput, since smaller batches are committed. So what issues gives way further while somebody
asks for anything else than while nobody does.

A request without a place waits for one for a moment: bursts are no overload.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from math import inf
from statistics import median
from typing import Final

from broker.http.urgency import Urgency
from broker.metrics import Metrics

SAMPLE_SECONDS: Final = 0.01
SAMPLES: Final = 7
"""Limits are adapted after so many samples, by the middle one of them."""

IDLE_SECONDS: Final = 0.1
"""How long the next sample may wait while nobody asks for anything: taking one costs 100 µs of the processor."""

ALONE_ROUNDS: Final = 10
"""After so many adaptations in which only tokens and the like were asked for, nobody else is there."""

REFUSALS_PER_SECOND: Final = 250
"""So many refusals a second are given at most, as far as :data:`LONGEST_PAUSE` allows."""

LONGEST_PAUSE: Final = 2.0
"""For how many seconds a refusal is held back at most."""

RETRY_SECONDS: Final = 4
"""Over how many seconds those who are turned away are spread."""

_FREE: Final = 4096
"""A limit that has grown to this is none: there are no more connections by default."""

_PATIENCE: Final = 0.5
_MAX_WAITING: Final = 256
_LEAST_CUT, _MOST_CUT = 0.9, 0.5
_GROWTH: Final = 1.05


@dataclass(slots=True, kw_only=True)
class Lane:
    """The requests of one kind: those under way, and those that wait for a place.

    ``target`` is the lag in seconds that is put up with. ``least`` is how many may be under way however late the loop
    is: when the load does not come from these requests, turning all of them away would not help; ``alone`` is the same
    while nobody asks for anything else. ``patience`` is for how many seconds one waits at most, and ``asked`` counts
    who has asked for a place.
    """

    target: float
    least: int
    alone: int = 0
    most: int = _FREE
    patience: float = _PATIENCE
    limit: int = field(init=False)
    under_way: int = 0
    asked: int = 0
    _waiting: deque[asyncio.Future[None]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        """Begin without a limit but ``most``."""
        self.limit = self.most

    @property
    def has_room(self) -> bool:
        """Whether one more may come in without waiting."""
        return self.under_way < self.limit

    async def enter(self) -> bool:
        """Take a place, perhaps after a moment; False if there was none in time, or if too many wait already."""
        self.asked += 1
        if self.has_room:
            self.under_way += 1
            return True
        if len(self._waiting) >= _MAX_WAITING:
            return False
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await asyncio.wait({place}, timeout=self.patience)
        except asyncio.CancelledError:
            if place.done():
                self.leave()
            raise
        finally:
            if not place.done():
                self._waiting.remove(place)
        return place.done()

    def leave(self) -> None:
        """Give a place back; whoever has waited the longest gets it."""
        self.under_way -= 1
        self._fill()

    def adapt(self, lag: float, *, alone: bool = False) -> None:
        """Take account of the lag found by the last samples, in seconds, and of who else is there."""
        if lag <= self.target:
            self.limit = min(self.most, int(self.limit * _GROWTH) + 1)
            self._fill()
        else:
            cut = max(_MOST_CUT, min(_LEAST_CUT, self.target / lag))
            least = max(self.least, self.alone) if alone else self.least
            self.limit = max(least, int(min(self.limit, self.under_way) * cut))
            self._fill()

    def _fill(self) -> None:
        while self._waiting and self.has_room:
            self.under_way += 1
            self._waiting.popleft().set_result(None)


class Pressure:
    """The lanes of all requests, and the lag by which they are limited."""

    def __init__(self, metrics: Metrics, spread: Callable[[], float]) -> None:
        """Nothing is limited before the loop was found late. ``spread`` returns numbers from 0 to 1, by chance."""
        self.lanes: Mapping[Urgency, Lane] = {
            Urgency.REVOKING: Lane(target=inf, least=sys.maxsize, most=sys.maxsize),
            Urgency.SIGNING_IN: Lane(target=inf, least=4, most=4),
            Urgency.TELLING: Lane(target=0.05, least=64),
            Urgency.ISSUING: Lane(target=0.002, least=16, alone=64),
        }
        self._lag = 0.0
        self._metrics = metrics
        self._spread = spread
        self._samples: list[float] = []
        self._next_refusal = 0.0
        self._others = 0
        self._rounds_alone = 0
        metrics.watch("loop_lag_seconds", "What the event loop and a thread wait for each other.", lambda: self._lag)
        for urgency, lane in self.lanes.items():
            metrics.watch_under_way(urgency.value, partial(_under_way, lane))

    def turned_away(self, urgency: Urgency) -> int:
        """Count a request for which there was no room; return after how many seconds it should be made again."""
        self._metrics.shed(urgency.value)
        return 1 + int(self._spread() * RETRY_SECONDS)

    def pause(self, now: float) -> float:
        """Return for how many seconds a refusal that was made at ``now`` should be held back.

        A connection waits for its answer meanwhile. So those who are refused go on one after another, at a rate that
        costs little.
        """
        self._next_refusal = max(self._next_refusal, now) + 1 / REFUSALS_PER_SECOND
        return min(self._next_refusal - now, LONGEST_PAUSE)

    def sampled(self, lag: float) -> None:
        """Take account of one sample of the lag, in seconds."""
        self._samples.append(lag)
        if len(self._samples) < SAMPLES:
            return
        self._lag = median(self._samples)
        self._samples.clear()
        alone = self._issues_alone()
        for lane in self.lanes.values():
            lane.adapt(self._lag, alone=alone)

    async def watch(self) -> None:
        """Sample the lag until cancelled."""
        loop = asyncio.get_running_loop()
        asked = 0
        with ThreadPoolExecutor(1, thread_name_prefix="pressure") as thread:
            while True:
                idle, asked = asked == self._asked(), self._asked()
                await asyncio.sleep(IDLE_SECONDS if idle else SAMPLE_SECONDS)
                before = loop.time()
                await loop.run_in_executor(thread, _nothing)
                self.sampled(loop.time() - before)

    def _issues_alone(self) -> bool:
        """Whether nobody has lately asked for anything but what is turned away first."""
        others = self._asked() - self.lanes[Urgency.ISSUING].asked
        self._rounds_alone = self._rounds_alone + 1 if others == self._others else 0
        self._others = others
        return self._rounds_alone >= ALONE_ROUNDS

    def _asked(self) -> int:
        """Return how many requests have come so far."""
        return sum(lane.asked for lane in self.lanes.values())


def _under_way(lane: Lane) -> int:
    return lane.under_way


def _nothing() -> None:
    """Be run by a thread, for which it needs the interpreter's lock."""
