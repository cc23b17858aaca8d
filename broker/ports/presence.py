"""Who is there: replicas and verifiers, as they tell of themselves. Presence is no record: no entry goes with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.core.propagation import Present, Replica


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A verifier has applied an epoch, and refuses everything ``max_age`` seconds after its last news."""

    agent: str
    name: str
    epoch: int
    max_age: float


@dataclass(frozen=True, slots=True)
class Left:
    """A verifier has ended, and accepts nothing any more."""

    agent: str
    name: str


class Presence(Protocol):
    """Remembers who is there, for all processes that share the ledger. Times are by the database's own clock.

    Every method is one transaction, and raises ``Unavailable`` if the store cannot be read or written now.
    """

    async def heard(self, told: Sequence[Acknowledged | Left]) -> None:
        """Take note of what verifiers said, each once at most. An older epoch than before only shows that it is there.

        Lost with the process if that ends before; verifiers say it again.
        """
        ...

    async def tell(self, replica: Replica) -> None:
        """Say of this replica what it is now; ``silent`` and ``known`` are left aside."""
        ...

    async def leave(self, replica_id: str) -> None:
        """Say that a replica has ended."""
        ...

    async def present(self) -> Present:
        """Return everybody who is remembered, by agent and name, or by id."""
        ...

    async def moment(self) -> float:
        """Return the time by the database's clock (Unix seconds), for :meth:`forget_silent`."""
        ...

    async def forget_silent(self, since: float) -> int:
        """Forget everybody who was not heard since a time by the database's clock; return how many."""
        ...


class PresenceMeter(Protocol):
    """Measures who is there, and how fast rules get to everybody."""

    def acknowledged(self, outcome: str) -> None:
        """Count one acknowledgement: ``taken``, ``left``, ``invalid`` or ``refused`` for want of room."""
        ...

    def propagated(self, seconds: float) -> None:
        """Record how long after its commit nobody accepted any more what a rule hits."""
        ...

    def present_are(self, present: Present, epoch: int) -> None:
        """Show who is there, and how far behind ``epoch`` they are."""
        ...
