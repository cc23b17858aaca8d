"""Bounded counting: refusals in aggregate, how many a caller may have recorded, how many may wait (laws 10 and 11)."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

WINDOW: Final = 60.0
"""Seconds of one allowance window."""

PLACES: Final = 256
PLACES_EACH: Final = 16
"""How many callers may have their answers held back at the same time, in all and of one agent: each keeps a connection
busy, of which there are not many more, and has the ledger looked at again and again."""


@dataclass(slots=True)
class Tally:
    """Counts refusals by reason code; the codes are a closed set, so its size is bounded."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, code: str) -> None:
        """Count one more."""
        self.counts[code] += 1

    def take(self) -> dict[str, int]:
        """Return the counts so far and start again from nothing."""
        taken = dict(self.counts)
        self.counts = Counter()
        return taken

    def put_back(self, counts: dict[str, int]) -> None:
        """Add counts back that could not be recorded."""
        self.counts.update(counts)


class Allowance:
    """At most ``limit`` events per key and :data:`WINDOW` seconds, for at most ``keys`` keys at a time.

    When more keys are active, the least recently seen one starts afresh: this bounds memory, and it is only used where
    forgetting costs little. Exact limits are guards in the ledger.
    """

    def __init__(self, limit: int, keys: int = 10_000) -> None:
        """``limit`` events per window and key."""
        self._limit = limit
        self._keys = keys
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def admit(self, key: str, now: float) -> bool:
        """Count one event; False if it is over the limit."""
        start, count = self._seen.pop(key, (now, 0))
        if not 0 <= now - start < WINDOW:
            start, count = now, 0
        self._seen[key] = (start, count + 1)
        if len(self._seen) > self._keys:
            self._seen.popitem(last=False)
        return count < self._limit


class Places:
    """Room for those who wait: ``most`` at a time, ``each`` of them under the same key. Belongs to one event loop."""

    def __init__(self, most: int = PLACES, each: int = PLACES_EACH) -> None:
        """All places are free."""
        self._most = most
        self._each = each
        self._taken: Counter[str] = Counter()

    @contextmanager
    def taking(self, key: str) -> Iterator[bool]:
        """Take a place for the length of a block; False if there is none for this key."""
        if self._taken.total() >= self._most or self._taken[key] >= self._each:
            yield False
            return
        self._taken[key] += 1
        try:
            yield True
        finally:
            self._taken[key] -= 1
            if not self._taken[key]:
                del self._taken[key]
