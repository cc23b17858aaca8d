"""Counting entries by what they say, in bounded memory, with the places where they stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

MAX_KEYS: Final = 2_000
"""How many different values are told apart; the entries with others are counted together."""

OTHERS: Final = "(all others)"
_EXAMPLES: Final = 3


@dataclass(slots=True)
class Counted:
    """How many entries say something, and where some of them stand: the first ones, and the last."""

    count: int = 0
    first: list[int] = field(default_factory=list)
    last: int = 0

    def add(self, seq: int, times: int = 1) -> None:
        """Count an entry; ``times`` is how often it says so."""
        self.count += times
        self.last = seq
        if len(self.first) < _EXAMPLES:
            self.first.append(seq)

    def places(self) -> str:
        """Return the places of some of the entries, in words."""
        shown = ", ".join(str(seq) for seq in self.first)
        return shown if self.last in self.first else f"{shown} … {self.last}"


@dataclass(slots=True)
class Counts:
    """Entries by a value. Those that come when there are too many values already are counted as :data:`OTHERS`."""

    _by_value: dict[str, Counted] = field(default_factory=dict)

    def add(self, value: object, seq: int, times: int = 1) -> None:
        """Count an entry that says ``value``; None is counted, too."""
        name = "-" if value is None else str(value)
        if name not in self._by_value and len(self._by_value) >= MAX_KEYS:
            name = OTHERS
        self._by_value.setdefault(name, Counted()).add(seq, times)

    def get(self, value: str) -> Counted | None:
        """Return what was counted of a value."""
        return self._by_value.get(value)

    def most(self) -> Iterator[tuple[str, Counted]]:
        """Yield values with what was counted, the most frequent first."""
        yield from sorted(self._by_value.items(), key=lambda item: (-item[1].count, item[0]))

    @property
    def total(self) -> int:
        """How much was counted of all values together."""
        return sum(counted.count for counted in self._by_value.values())
