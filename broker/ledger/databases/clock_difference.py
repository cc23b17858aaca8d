"""How far the clock of this host is from that of the database that it shares with others.

Every replica writes times of its own clock into tokens and entries. One whose clock is wrong must not issue any.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, select

from broker.ledger.databases.expressions import moment


def difference(connection: Connection, clock: Callable[[], float]) -> float:
    """Return by how many seconds the database's clock is ahead, at least: what the way took is in our favour."""
    before = clock()
    there = float(connection.scalars(select(moment())).one())
    after = clock()
    return there - min(max(there, before), after)


class ClockDifference:
    """Remembers whether the clocks were too far apart when they were last compared."""

    def __init__(self, most: float) -> None:
        """``most`` is in seconds."""
        self._most = most
        self._difference = 0.0

    @property
    def problem(self) -> str | None:
        """Why nothing must be issued, in public words; None if the clocks agree well enough."""
        if abs(self._difference) <= self._most:
            return None
        return f"this host's clock differs from the database's by {abs(self._difference):.0f} seconds"

    def note(self, seconds: float) -> None:
        """Take a new measurement."""
        self._difference = seconds
