"""The head of a ledger: the point at which all its writers agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from sqlalchemy import Connection

from broker.core.errors import Code, Unavailable
from broker.core.merkle import Frontier
from broker.ledger.databases import statements


@dataclass(frozen=True, slots=True)
class Head:
    """The Merkle frontier over all entries, the epoch, and what has to be known of the ledger in memory.

    ``changed`` is the size of the ledger after the last entry that changed what processes keep in memory: rules,
    blocks, registered agents, keys, the policy. Whoever knows the ledger up to there has nothing to load.
    """

    frontier: Frontier
    epoch: int
    changed: int

    @property
    def size(self) -> int:
        """How many entries there are."""
        return self.frontier.size

    @classmethod
    def read(cls, connection: Connection) -> Self:
        """Read the head. Raises :class:`Unavailable` (``LEDGER_CORRUPT``) if what is stored is not a head."""
        row = statements.of(connection).read_head(connection)
        if row is None:
            raise Unavailable(Code.LEDGER_CORRUPT, "the ledger has no head")
        size, frontier, epoch, changed = row
        try:
            return cls(Frontier.from_bytes(size, frontier), epoch, changed)
        except (ValueError, TypeError) as error:
            raise Unavailable(Code.LEDGER_CORRUPT, "the ledger's head is damaged") from error
