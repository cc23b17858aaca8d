"""Platform tokens that were verified once are recognised by their digest: a hash instead of a signature."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from broker.core.issuer import TrustedIssuer
from broker.ports import Authenticated

MAX_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Recognised:
    """What was verified, under which definition of the issuer, with which key, and until when it may be relied on."""

    authenticated: Authenticated
    issuer: TrustedIssuer
    thumbprint: str
    until: float


class Recognition:
    """A bounded table; the token that was not seen for the longest time is forgotten first."""

    def __init__(self, size: int = MAX_REMEMBERED) -> None:
        """``size`` is how many tokens are remembered at most."""
        self._size = size
        self._known: OrderedDict[bytes, Recognised] = OrderedDict()

    def find(self, digest: bytes, now: float) -> Recognised | None:
        """Return what is known of a token that has not expired."""
        known = self._known.get(digest)
        if known is None:
            return None
        if known.until <= now:
            del self._known[digest]
            return None
        self._known.move_to_end(digest)
        return known

    def remember(self, digest: bytes, known: Recognised) -> None:
        """Remember a token that was verified completely."""
        self._known[digest] = known
        self._known.move_to_end(digest)
        if len(self._known) > self._size:
            self._known.popitem(last=False)

    def forget(self, digest: bytes) -> None:
        """Forget a token: what it rested on has changed."""
        self._known.pop(digest, None)

    def __len__(self) -> int:
        return len(self._known)
