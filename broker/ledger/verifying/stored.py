"""Entries as a source holds them, in pieces that any process can read by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol


class Stored(NamedTuple):
    """One entry, none of whose values is trusted. ``leaf`` and ``columns`` are None where the source keeps none.

    ``personal`` is what is stored of its personal members, with their salt; None if there is nothing of them.
    """

    seq: Any
    leaf: Any
    columns: tuple[Any, ...] | None
    body: Any
    personal: Any


def stored(row: Sequence[Any]) -> Stored:
    """Return an entry from its row in a database, which has the columns of ``ENTRY_COLUMNS``."""
    return Stored(row[0], row[1], tuple(row[2:-2]), row[-2], row[-1])


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a piece holds. ``unreadable`` says in words what could not be read of it."""

    entries: list[Stored]
    unreadable: list[str] = field(default_factory=list)


class Piece(Protocol):
    """A part of a source, small enough for memory; can be pickled."""

    @property
    def share(self) -> float:
        """How much of the source is read with this piece, from 0 to 1."""
        ...

    def load(self) -> Loaded:
        """Read it. Never raises for what the source holds."""
        ...


class Source(Protocol):
    """Entries in their order."""

    def pieces(self) -> Iterator[Piece]:
        """Yield all pieces. Raises ``Unavailable`` if the source cannot be read at all."""
        ...
