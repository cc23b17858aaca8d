"""Waiting for people: which requests they have not decided on, how long to wait for them, and at what pace."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

from broker.client.errors import TokenPending
from broker.client.pending import Pending
from broker.core.pacing import Timing

MAX_WAITING: Final = 100
"""How many requests that people have not decided on are remembered."""

USABLE_SECONDS: Final = 300
"""Seconds that the broker lets an approval be used after the time to decide on it is over."""

SLOWER: Final = 5
"""Seconds by which the interval grows at least when the broker says ``slow_down`` (CIBA, 11)."""

HELD_SECONDS: Final = 20
"""Seconds that the broker is asked to hold an answer back until somebody has decided (``Prefer: wait``, RFC 7240)."""

OnPending = Callable[[str, int], object]
"""Told that a person has to decide: the request's id, and within how many seconds. What it returns does not matter."""

_log: Final = logging.getLogger("broker.client")


@dataclass(frozen=True, slots=True)
class _Known:
    auth_req_id: str
    until: float


class Waiting:
    """The requests of one client that people have not decided on: whoever asks for the same again, goes on with one."""

    def __init__(self, timing: Timing, seconds: float, on_pending: OnPending | None) -> None:
        """``seconds`` is how long one call waits for people; ``on_pending`` is told once of each request."""
        self.timing = timing
        self.seconds = seconds
        self._on_pending = on_pending
        self._known: OrderedDict[Hashable, _Known] = OrderedDict()

    def of(self, want: Hashable) -> str | None:
        """Return the id of the request to go on with, or None if there is none, or not any more."""
        known = self._known.get(want)
        if known is not None and known.until <= self.timing.elapsed():
            del self._known[want]
            return None
        return None if known is None else known.auth_req_id

    def remember(self, want: Hashable, auth_req_id: str, expires_in: int) -> None:
        """Go on with this request from now on, for as long as it, or the approval, can be of use."""
        self._known[want] = _Known(auth_req_id, self.timing.elapsed() + expires_in + USABLE_SECONDS)
        self._known.move_to_end(want)
        if len(self._known) > MAX_WAITING:
            self._known.popitem(last=False)

    def forget(self, want: Hashable) -> None:
        """Begin anew the next time: this one came to its end."""
        self._known.pop(want, None)

    def tell(self, pending: Pending) -> None:
        """Tell the caller whom to wait for. A mistake in what it does then does not end the request."""
        if self._on_pending is None:
            return
        try:
            self._on_pending(pending.auth_req_id, pending.expires_in)
        except Exception as error:  # noqa: BLE001 - the caller's own code; only the error's type is safe to log
            _log.error("on_pending failed: %s", type(error).__name__)


class Wait:
    """One call's wait. It begins with the first answer that says that people have to decide."""

    def __init__(self, waiting: Waiting, want: Hashable) -> None:
        """``want`` is what they decide on."""
        self._waiting = waiting
        self._want = want
        self._until: float | None = None
        self._told: str | None = None
        self._interval = 0

    def hold(self) -> int:
        """Return for how many seconds the broker may hold its next answer back."""
        if self._until is None:
            return 0
        return max(0, min(HELD_SECONDS, int(self._until - self._waiting.timing.elapsed())))

    async def pause(self, pending: Pending, asked_at: float) -> None:
        """Wait until it is time to ask again; ``asked_at`` is when the answer that is at hand was asked for.

        Raises ``TokenPending`` if it would not be in time. What the broker took to answer counts as waited, so that an
        answer that was held back is followed by the next question at once.
        """
        now = self._waiting.timing.elapsed()
        if self._until is None:
            self._until = now + self._waiting.seconds
        self._waiting.remember(self._want, pending.auth_req_id, pending.expires_in)
        if pending.auth_req_id != self._told:
            self._told = pending.auth_req_id
            self._waiting.tell(pending)
        rest = self._next(pending) - (0 if pending.too_fast else now - asked_at)
        if now + max(0.0, rest) >= self._until:
            raise TokenPending(pending.auth_req_id, expires_in=pending.expires_in, interval=pending.interval)
        if rest > 0:
            await self._waiting.timing.sleep(rest)

    def _next(self, pending: Pending) -> int:
        """Return the seconds between two questions: what the broker says, and more than before if that was too fast."""
        if pending.too_fast:
            self._interval = max(pending.interval, self._interval + SLOWER)
            return self._interval
        self._interval = max(pending.interval, self._interval)
        return self._interval
