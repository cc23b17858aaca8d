"""Tokens kept until they are nearly over: renewed ahead of time, and asked for once however many wait for them."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from broker.client.errors import TokenUnavailable
from broker.client.token import Token, Want
from broker.core.errors import BrokerError
from broker.core.pacing import Backoff, Timing

RENEW_FROM: Final = 2 / 3
"""The part of a token's life after which it is renewed; jitter moves that up to :data:`RENEW_UNTIL`."""

RENEW_UNTIL: Final = 0.8
LAST_SECONDS: Final = 5.0
"""A token is not handed out in its last seconds (or tenth of its life): it would end on its way."""

_log: Final = logging.getLogger("broker.client")
_RENEWAL: Final = Backoff(first=1.0, longest=30.0)


@dataclass(slots=True)
class _Entry:
    token: Token
    renew_at: float
    usable_until: float
    failures: int = 0


class TokenCache:
    """Hands out one token per :class:`Want`. Belongs to one event loop."""

    def __init__(self, obtain: Callable[[Want], Awaitable[Token]], timing: Timing, *, size: int) -> None:
        """``obtain`` asks the broker; at most ``size`` tokens are kept, the least recently used goes first."""
        self._obtain = obtain
        self._timing = timing
        self._size = size
        self._entries: OrderedDict[Want, _Entry] = OrderedDict()
        self._flights: dict[Want, asyncio.Task[Token]] = {}
        self._closed = False

    async def get(self, want: Want) -> Token:
        """Return a token that is good for a while yet.

        While a token that is due is being renewed, the one at hand is returned. All who wait for the same token wait
        for one request; one of them being cancelled does not disturb the others. Raises what ``obtain`` raises.
        """
        entry, now = self._entries.get(want), self._timing.elapsed()
        if entry is not None and now < entry.usable_until:
            self._entries.move_to_end(want)
            if now >= entry.renew_at:
                _ = self._fly(want)  # nobody waits for it
            return entry.token
        flight = self._fly(want)
        await asyncio.wait([flight])  # which, if this caller is cancelled, lets the request go on for the others
        if flight.cancelled():
            raise TokenUnavailable("the client was closed while it waited for the broker")
        return flight.result()

    def drop(self, access_token: str) -> None:
        """Forget a token that turned out to be no good."""
        for want, entry in list(self._entries.items()):
            if entry.token.access_token == access_token:
                del self._entries[want]

    def drop_task(self, task: str) -> None:
        """Forget all tokens of a task: they ended with it."""
        for want in [want for want in self._entries if want.task == task]:
            del self._entries[want]

    def has(self, want: Want) -> bool:
        """Whether there is a token that could be handed out now."""
        entry = self._entries.get(want)
        return entry is not None and self._timing.elapsed() < entry.usable_until

    async def close(self) -> None:
        """Stop all requests under way; whoever waits for one gets ``TokenUnavailable``."""
        self._closed = True
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        self._entries.clear()

    def _fly(self, want: Want) -> asyncio.Task[Token]:
        """Return the one request for this token that is under way, starting it if there is none."""
        if self._closed:
            raise TokenUnavailable("the client is closed")
        flight = self._flights.get(want)
        if flight is None:
            flight = self._flights[want] = asyncio.ensure_future(self._ask(want))
            flight.add_done_callback(lambda done: self._landed(want, done))
        return flight

    def _landed(self, want: Want, flight: asyncio.Task[Token]) -> None:
        del self._flights[want]
        if not flight.cancelled():
            flight.exception()  # seen: when a renewal in the background fails, nobody waits for it

    async def _ask(self, want: Want) -> Token:
        try:
            token = await self._obtain(want)
        except Exception as error:
            self._postpone(want, error)
            raise
        self._keep(want, token)
        return token

    def _keep(self, want: Want, token: Token) -> None:
        life = token.expires_in
        part = RENEW_FROM + (RENEW_UNTIL - RENEW_FROM) * self._timing.spread()
        self._entries[want] = _Entry(
            token=token,
            renew_at=token.asked_at + life * (part if token.renews else 1),
            usable_until=token.asked_at + life - min(LAST_SECONDS, life / 10),
        )
        self._entries.move_to_end(want)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def _postpone(self, want: Want, error: Exception) -> None:
        """A renewal failed: the token at hand is served on, and renewing it is tried again later."""
        entry = self._entries.get(want)
        if entry is not None:
            why = str(error) if isinstance(error, BrokerError) else type(error).__name__
            _log.log(_level(entry.failures), "renewing a token for %s failed: %s", want.audience, why)
            wait = _RENEWAL.delay(entry.failures, self._timing.spread())
            entry.renew_at = self._timing.elapsed() + wait
            entry.failures += 1


def _level(failures: int) -> int:
    return logging.WARNING if failures == 0 else logging.DEBUG
