"""A ledger that is only a list of entries, for whoever reads one page after another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.support.ledgers import NOW


@dataclass
class Entries:
    """Pages of at most ``page`` entries. ``reads`` counts them."""

    count: int
    page: int = 200
    reads: int = 0
    odd: dict[int, dict[str, Any]] = field(default_factory=dict)

    async def read(self, after: int) -> list[tuple[int, dict[str, Any]]]:
        """Return entries above a place."""
        self.reads += 1
        return [(seq, {"entry": self.entry(seq)}) for seq in range(after + 1, min(after + 1 + self.page, self.count))]

    def entry(self, seq: int) -> dict[str, Any]:
        """Return the entry at a place; ``odd`` has more members of some."""
        made = {"v": 1, "kind": "token.issued", "at": int(NOW * 1000) + seq, "ref": f"tok_{seq}"}
        return {**made, **self.odd.get(seq, {})}
