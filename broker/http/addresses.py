"""How many failures each address has made lately: the limit for callers that have no identity (law 10)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from ipaddress import IPv6Address
from math import ceil
from typing import Final

from broker.http.forwarded import parsed_address
from broker.http.surface import Network

WINDOW: Final = 60.0
"""Seconds of one counting window."""

MAX_ADDRESSES: Final = 10_000
"""Addresses that are remembered; beyond, the one whose window is the oldest is forgotten."""

_PREFIX_BITS: Final = 64


class FailureLimit:
    """Counts failures per address and window. Bounded; one event loop only."""

    def __init__(self, limit: int, unlimited: Sequence[Network] = ()) -> None:
        """``limit`` failures per window; networks in ``unlimited`` have none."""
        self._limit = limit
        self._unlimited = tuple(unlimited)
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def wait(self, address: str, now: float) -> int | None:
        """Return in how many seconds an address may try again, or None if it may at once."""
        if not self._failures:
            return None
        start, count = self._failures.get(_origin(address), (now, 0))
        if count < self._limit or not 0 <= now - start < WINDOW:
            return None
        return max(1, ceil(start + WINDOW - now))

    def count(self, address: str, now: float) -> None:
        """Count one failure."""
        if self._is_unlimited(address):
            return
        origin = _origin(address)
        start, count = self._failures.get(origin, (now, 0))
        if not 0 <= now - start < WINDOW:
            self._failures.pop(origin)
            start, count = now, 0
        self._failures[origin] = (start, count + 1)
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)

    def _is_unlimited(self, address: str) -> bool:
        parsed = parsed_address(address)
        return parsed is None or any(parsed in network for network in self._unlimited)


def _origin(address: str) -> str:
    """Return what is counted as one: an IPv4 address, or the /64 of an IPv6 address."""
    if ":" not in address:
        return address
    parsed = parsed_address(address)
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    return f"{int(parsed) >> (128 - _PREFIX_BITS):x}::/64"
