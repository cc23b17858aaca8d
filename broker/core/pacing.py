"""When to try again: back-off with jitter, ``Retry-After``, and where a program takes its time from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

MAX_EXPONENT: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Where time and chance come from.

    ``wall`` is Unix seconds and may step; ``elapsed`` is seconds since any fixed moment and never goes back; ``sleep``
    waits for so many seconds; ``spread`` is a random number from 0 up to, not including, 1.
    """

    wall: Callable[[], float]
    elapsed: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    spread: Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to wait after the *n*-th failure in a row (from 0): doubling from ``first`` up to ``longest`` seconds.

    Half of each wait is jitter, so that many clients that failed together do not come back together.
    """

    first: float
    longest: float

    def delay(self, failures: int, spread: float) -> float:
        """Return the wait in seconds; ``spread`` is a random number in [0, 1)."""
        full = min(self.longest, self.first * 2.0 ** min(failures, MAX_EXPONENT))
        return full * (0.5 + spread / 2)


def retry_after(header: str | None, now: float) -> float | None:
    """Read a ``Retry-After`` header (RFC 9110, 10.2.3) as seconds from ``now`` (Unix seconds); None if it says nothing.

    It is untrusted input: callers bound what they do with it.
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
