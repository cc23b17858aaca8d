"""Where a process stands among those that serve one ledger."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from broker.core.revoking import Making
from broker.ledger.sharing.family import Family as LedgerFamily
from broker.metrics import Family
from broker.ports import ProofMemory, Siblings

Gathered = Callable[[], Awaitable[Sequence[Family]]]
"""Returns what all processes have measured."""


class NoSiblings:
    """Implements ``Siblings`` for a process that has none."""

    async def tell(self, made: Making) -> None:
        """There is nobody to be told."""

    async def settled(self, rule_id: str) -> None:
        """Nobody was told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a process stands; by default it is alone.

    ``workers`` is how many there are on this host. ``since`` (Unix seconds) is when the first of them can have begun;
    None: with this one. ``announces`` says that this one announces the requests that wait for approval when it starts.
    ``family`` has the ledger's file for all of them; ``proofs`` remembers used proofs, and ``gathered`` returns the
    metrics, of all of them. Without these, this process does it for itself.
    """

    workers: int = 1
    since: float | None = None
    announces: bool = True
    family: LedgerFamily | None = None
    proofs: ProofMemory | None = None
    siblings: Siblings = field(default_factory=NoSiblings)
    gathered: Gathered | None = None


ALONE: Final = Place()
"""A process that serves its ledger by itself."""
