"""A circuit breaker: what has failed again and again is left alone for a while, then tried once before it is used.

Calls that were under way together share what went wrong with the other side at that moment, so that their failures
count as the sign of one bad moment, however many they are: only what was begun after one of them, and failed too,
tells that it lasts.

It has no clock and no chance of its own: callers give the elapsed seconds, of a clock that never goes back, and a
random number for the jitter.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from broker.core.pacing import Backoff

FAILURES: Final = 5
"""How many failures in a row open a circuit, if they come together."""

WITHIN_SECONDS: Final = 30.0
"""How far apart the first and the last of them may be."""

PAUSES: Final = Backoff(first=2.0, longest=60.0)
"""How long an open circuit is left alone: from one to two seconds, growing up to a minute."""


class CircuitState(StrEnum):
    """``closed``: calls pass. ``open``: none does. ``half_open``: one may, and what becomes of it decides."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Passage:
    """The leave to make one call. It is given back by exactly one of the circuit's three reports.

    ``period`` counts how often the circuit had opened or closed before: what is reported from an earlier period says
    nothing about the present one. ``failures`` is how many had been reported in that period when the call began.
    ``trial`` says that it is the one call of a half-open circuit.
    """

    period: int
    failures: int = 0
    trial: bool = False


class Circuit:
    """Open after :data:`FAILURES` failures in a row within :data:`WITHIN_SECONDS`, with a growing pause each time.

    One of the row must have begun after another had failed.
    """

    __slots__ = ("_before_row", "_failed_at", "_failures", "_open_until", "_period", "_reopened", "_trying")

    def __init__(self) -> None:
        self._failed_at: deque[float] = deque(maxlen=FAILURES)
        self._failures = 0
        self._before_row = 0
        self._open_until: float | None = None
        self._reopened = 0
        self._period = 0
        self._trying = False

    def state(self, now: float) -> CircuitState:
        """Return the state at ``now``."""
        if self._open_until is None:
            return CircuitState.CLOSED
        return CircuitState.HALF_OPEN if self._trying or now >= self._open_until else CircuitState.OPEN

    def retry_in(self, now: float) -> float | None:
        """Return in how many seconds it makes sense to ask again; None if a call may pass now.

        While the trial of a half-open circuit runs, nobody knows; it is a second then.
        """
        if self._open_until is None:
            return None
        if self._trying:
            return 1.0
        return self._open_until - now if now < self._open_until else None

    def enter(self, now: float) -> Passage | None:
        """Return the leave to make a call, or None if none may pass now."""
        if self.retry_in(now) is not None:
            return None
        self._trying = self._open_until is not None
        return Passage(self._period, self._failures, self._trying)

    def answered(self, passage: Passage) -> None:
        """Report that the other side answered, whatever it said: a half-open circuit closes."""
        if passage.period != self._period:
            return
        self._failed_at.clear()
        if passage.trial:
            self._turn(None)
            self._reopened = 0

    def failed(self, passage: Passage, now: float, spread: float) -> None:
        """Report a failure; ``spread`` is a random number in [0, 1). The trial's failure opens the circuit again."""
        if passage.period != self._period:
            return
        if not self._failed_at:
            self._before_row = self._failures
        self._failures += 1
        self._failed_at.append(now)
        together = len(self._failed_at) == FAILURES and now - self._failed_at[0] <= WITHIN_SECONDS
        lasting = passage.failures > self._before_row
        if passage.trial or (together and lasting):
            self._turn(now + PAUSES.delay(self._reopened, spread))
            self._reopened += 1

    def left(self, passage: Passage) -> None:
        """Report that the call says nothing about the other side: it was cancelled, or never came to asking it."""
        if passage.period == self._period and passage.trial:
            self._trying = False

    def _turn(self, open_until: float | None) -> None:
        self._open_until = open_until
        self._period += 1
        self._trying = False
        self._failures = 0
        self._failed_at.clear()
