"""The last rules, so that a follower who was away for a moment gets what it missed, and no more."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from broker.core.rules import Rule
from broker.core.statement import LIFETIME
from broker.feed.event import RULE, event

MOST_AT_ONCE: Final = 512
"""Rules that are told one by one; whoever misses more gets a snapshot."""

REUSED_SECONDS: Final = LIFETIME / 2
"""A statement that is older is signed anew: whoever gets it must have time to read it."""

Sign = Callable[[Rule, int, float], str]
"""Signs a rule on top of an epoch at a time (Unix seconds). Raises ``Unavailable``."""


@dataclass(slots=True)
class Stated:
    """A rule, and the epoch before it, as an event: made when it is first needed, and again when it is old."""

    rule: Rule
    previous: int
    made_at: float = 0.0
    made: bytes = b""

    def event(self, sign: Sign, now: float) -> bytes:
        """Return the event. Raises ``Unavailable`` if it cannot be signed."""
        if not self.made or not self.made_at <= now < self.made_at + REUSED_SECONDS:
            self.made = event(RULE, sign(self.rule, self.previous, now), self.rule.number)
            self.made_at = now
        return self.made


class Recent:
    """The last rules that have numbers, each on top of the one before it."""

    def __init__(self) -> None:
        """Nothing was stated."""
        self._stated: list[Stated] = []

    def add(self, rule: Rule, previous: int) -> Stated:
        """Take the next rule, made on top of the epoch ``previous``."""
        stated = Stated(rule, previous)
        self._stated.append(stated)
        if len(self._stated) >= 2 * MOST_AT_ONCE:
            del self._stated[:-MOST_AT_ONCE]
        return stated

    def clear(self) -> None:
        """Forget them: one is missing in between."""
        self._stated.clear()

    def after(self, epoch: int) -> list[Stated] | None:
        """Return the rules after an epoch that was one, or None if they are not all here, or too many."""
        place = bisect_left(self._stated, epoch, key=lambda stated: stated.previous)
        found = self._stated[place : place + MOST_AT_ONCE + 1]
        if not found or found[0].previous != epoch or len(found) > MOST_AT_ONCE:
            return None
        return found
