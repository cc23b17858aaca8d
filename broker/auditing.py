"""What the broker itself puts on record: that it started, strangers in aggregate, and steps of its clock."""

from __future__ import annotations

from typing import Final

from broker.core.change import Change
from broker.core.entry import Kind, entry
from broker.core.errors import Unavailable
from broker.core.tally import Tally
from broker.ports import Clock, Events, Ledger

STEP_SECONDS: Final = 5.0
"""A wall clock that moves this much more or less than the time that passed has been stepped."""


class Auditing:
    """Periodic records. Each call is cheap when there is nothing to say."""

    def __init__(self, *, ledger: Ledger, clock: Clock, events: Events, strangers: Tally) -> None:
        """``strangers`` counts what callers without an identity were refused."""
        self._ledger = ledger
        self._clock = clock
        self._events = events
        self._strangers = strangers
        self._since = clock.now()
        self._last: tuple[float, float] | None = None

    async def started(self, version: str) -> None:
        """Record that a broker process started."""
        await self._ledger.commit(Change(entry(Kind.BROKER_STARTED, self._clock.now(), version=version)))

    async def record_strangers(self) -> None:
        """Record the refusals that were counted since the last time, if there are any."""
        counts = self._strangers.take()
        if not counts:
            return
        now = self._clock.now()
        record = entry(Kind.STRANGERS_REFUSED, now, counts=counts, since=int(self._since * 1000))
        try:
            await self._ledger.commit(Change(record))
        except Unavailable:
            self._strangers.put_back(counts)
            return
        self._since = now

    async def watch_clock(self, monotonic: float) -> None:
        """Compare the wall clock with time that passed (``monotonic``, seconds) and record a step."""
        now = self._clock.now()
        last, self._last = self._last, (now, monotonic)
        if last is None:
            return
        step = (now - last[0]) - (monotonic - last[1])
        if abs(step) < STEP_SECONDS:
            return
        self._events.error("clock.stepped", seconds=round(step, 3))
        try:
            await self._ledger.commit(Change(entry(Kind.CLOCK_STEPPED, now, milliseconds=int(step * 1000))))
        except Unavailable:
            self._last = last
