"""How far an anchor is behind the ledger, and when somebody must look.

There is no clock here: callers give the elapsed seconds of a clock that never goes back.
"""

from __future__ import annotations

from typing import Final

from broker.core.errors import AnchorFailed, Code

ALARMING: Final = frozenset({Code.ANCHOR_INCONSISTENT, Code.ANCHOR_LOST})
"""What is an alarm at once: somebody has tampered with the ledger, or with the anchor."""


class AnchorProgress:
    """What one anchor holds, what waits for it, and how its attempts go."""

    __slots__ = ("_waiting_since", "alarm_seconds", "failure", "failures", "newest", "size")

    def __init__(self, *, alarm_seconds: float, size: int = 0) -> None:
        """``size`` is how many entries are covered by what the anchor holds, as far as anybody remembers."""
        self.alarm_seconds = alarm_seconds
        self.size = size
        self.newest = size
        self.failures = 0
        """How many attempts have failed since the last one that did not."""
        self.failure: AnchorFailed | None = None
        self._waiting_since: float | None = None

    def saw(self, size: int, now: float) -> None:
        """Take notice of the size of the ledger's newest checkpoint."""
        self.newest = size
        if size > self.size and self._waiting_since is None:
            self._waiting_since = now

    def placed(self, size: int, begun: float) -> None:
        """Take notice that the anchor holds a checkpoint, which was the newest at ``begun``."""
        self.size = size
        self.failures = 0
        self.failure = None
        self._waiting_since = begun if self.newest > size else None

    def failed(self, failure: AnchorFailed) -> None:
        """Take notice that an attempt failed."""
        self.failures += 1
        self.failure = failure

    def lag_entries(self) -> int:
        """Return how many entries no checkpoint at the anchor covers."""
        return max(0, self.newest - self.size)

    def lag_seconds(self, now: float) -> float:
        """Return for how long the oldest checkpoint has waited that the anchor does not hold; 0 if none does."""
        return 0.0 if self._waiting_since is None else max(0.0, now - self._waiting_since)

    def alarm(self, now: float) -> AnchorFailed | None:
        """Return why somebody must look, or None: it lags for too long, or it says what must never be."""
        if self.failure is not None and self.failure.code in ALARMING:
            return self.failure
        if self.lag_seconds(now) <= self.alarm_seconds:
            return None
        return self.failure or AnchorFailed(Code.ANCHOR_UNAVAILABLE, "it has not answered yet")
