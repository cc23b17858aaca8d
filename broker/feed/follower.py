"""One who follows: where the bytes go, by whose token, and when it is sent away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from broker.core.rules import RuleIndex
from broker.core.selector import Fact
from broker.ports import Admitted

MAX_UNREAD: Final = 128 * 1024
"""Bytes that a follower may leave unread when more is to be sent, besides a snapshot."""

PATIENCE_SECONDS: Final = 10.0
"""For how long a follower may leave anything unread."""

SLOW: Final = "slow"
EXPIRED: Final = "expired"
REVOKED: Final = "revoked"


class Sink(Protocol):
    """A connection, as the feed needs it. Nothing here waits for whoever reads."""

    @property
    def unread(self) -> int:
        """How many bytes wait to be read, besides those that the system keeps."""
        ...

    def tell(self, data: bytes) -> None:
        """Send more."""
        ...

    def end(self) -> None:
        """That was all: close once it is read."""
        ...

    def drop(self) -> None:
        """Close at once."""
        ...


@dataclass(slots=True, eq=False)
class Follower:
    """A sink, and the token by which it follows. Times are in seconds: of the token by the clock, else elapsed."""

    sink: Sink
    agent: str
    facts: frozenset[Fact]
    epoch: int
    expires_at: float
    allowance: int = MAX_UNREAD
    behind_since: float | None = None

    def why_over(self, rules: RuleIndex, now: float) -> str | None:
        """Return why its token is no good any more, or None."""
        if self.expires_at <= now:
            return EXPIRED
        return REVOKED if rules.killer(self.facts, self.epoch) is not None else None

    def is_slow(self, elapsed: float) -> bool:
        """Whether it has left too much unread, or anything for too long."""
        unread = self.sink.unread
        if not unread:
            self.behind_since, self.allowance = None, MAX_UNREAD
            return False
        if self.behind_since is None:
            self.behind_since = elapsed
        return unread > self.allowance or elapsed > self.behind_since + PATIENCE_SECONDS

    def tell(self, data: bytes) -> None:
        """Send more; something large may take a while to be read."""
        self.allowance = max(self.allowance, MAX_UNREAD + len(data))
        self.sink.tell(data)

    def leave(self, why: str) -> None:
        """Send it away."""
        if why == SLOW:
            self.sink.drop()
        else:
            self.sink.end()


def follower_of(sink: Sink, admitted: Admitted) -> Follower:
    """Return who follows by the token that it was admitted by. Raises ``ValueError`` if there was none."""
    claims = admitted.claims
    if claims is None:
        raise ValueError("whoever follows comes with a token")
    return Follower(sink, admitted.agent.id, claims.facts(admitted.kid), claims.epoch, claims.exp)
