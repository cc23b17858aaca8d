"""Reading what the ledger knows of the tokens in Token Status Lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.core.rules import Rule


@dataclass(frozen=True, slots=True)
class Listed:
    """One of the tokens in a status list: when it was issued (Unix seconds), at which epoch."""

    at: float
    epoch: int


class StatusRecords(Protocol):
    """What the ledger knows of the tokens in status lists. Raises ``Unavailable``."""

    async def listed(self, list_id: str) -> Listed | None:
        """Return one of the tokens in a list, any of them; None if there is none."""
        ...

    async def dead_in(self, list_id: str, rules: Sequence[Rule], now: float) -> bytes:
        """Return the bits of a list, set for its tokens that have not expired and that one of ``rules`` kills.

        It knows all tokens that were committed before any of the rules. May take seconds, but stalls nobody else.
        """
        ...
