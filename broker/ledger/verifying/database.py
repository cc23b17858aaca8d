"""The entries of a ledger's database, read in ranges of places by whoever checks them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DBAPIError

from broker.core.errors import Unavailable
from broker.core.merkle import HASH_SIZE
from broker.core.tiles import TILE_WIDTH
from broker.ledger import schema
from broker.ledger.databases import statements
from broker.ledger.databases.engines import offline_engine
from broker.ledger.databases.sqlite import lenient_text
from broker.ledger.verifying.stored import Loaded, Piece, Stored, stored
from broker.ports import Place, Server

PIECE: Final = 32 * TILE_WIDTH
"""How many places a piece covers."""

_SQL: Final = f"SELECT {', '.join(schema.ENTRY_COLUMNS)} FROM entries WHERE seq BETWEEN ? AND ? ORDER BY seq"  # noqa: S608 - our own names


@dataclass(frozen=True, slots=True)
class DatabasePiece:
    """The entries from ``first`` up to ``end`` of a file."""

    path: Path
    first: int
    end: int
    share: float

    def load(self) -> Loaded:
        """Read the range in a transaction of its own: entries that were committed never change."""
        entries: list[Stored] = []
        try:
            with offline_engine(self.path).connect() as connection:
                try:
                    return Loaded(list(self._rows(connection, str)))
                except sqlite3.Error:  # a text that is none, or a damaged page; reading with care is slow, and rare
                    for stored in self._rows(connection, lenient_text):
                        entries.append(stored)  # noqa: PERF402 - those before a damaged page are not lost
        except (sqlite3.Error, DBAPIError) as error:
            after = entries[-1].seq + 1 if entries else self.first
            text = f"entries from {after} on, up to {self.end - 1}, cannot be read: the database file is damaged"
            return Loaded(entries, [f"{text} ({error})"])
        return Loaded(entries)

    def _rows(self, connection: Connection, text: Callable[[bytes], str]) -> Iterator[Stored]:
        """Yield the rows as the driver has them: what else there is around them would cost as much again."""
        driver = cast("sqlite3.Connection", connection.connection.driver_connection)
        driver.text_factory = text
        for row in driver.execute(_SQL, (self.first, self.end - 1)):
            yield stored(row)


@dataclass(frozen=True, slots=True)
class ServerPiece:
    """The entries from ``first`` up to ``end`` of a database on a server."""

    server: Server
    first: int
    end: int
    share: float

    def load(self) -> Loaded:
        """Read the range in a transaction of its own: entries that were committed never change."""
        try:
            with offline_engine(self.server).connect() as connection:
                rows = statements.of(connection).read_entries(connection, self.first, self.end, PIECE)
        except (DBAPIError, Unavailable) as error:
            text = f"entries from {self.first} on, up to {self.end - 1}, cannot be read ({type(error).__name__})"
            return Loaded([], [text])
        return Loaded([stored(row) for row in rows])


class DatabaseEntries:
    """All entries that a database holds, wherever they are said to stand."""

    def __init__(self, place: Place, connection: Connection, expected: int) -> None:
        """``expected`` is how many entries there should be."""
        self._place = place
        self._connection = connection
        self._expected = max(expected, 1)

    def pieces(self) -> Iterator[Piece]:
        """Yield ranges that hold something; each whole tile is in one range.

        What is added while they are read is in none of them.
        """
        seq = schema.entries.c.seq
        first, last = self._connection.execute(select(func.min(seq), func.max(seq))).one()
        while first is not None:
            end = min(first - first % PIECE + PIECE, last + 1)
            share = min(1.0, max(0, end) / self._expected)
            if isinstance(self._place, Server):
                yield ServerPiece(self._place, first, end, share)
            else:
                yield DatabasePiece(self._place, first, end, share)
            first = self._connection.scalar(select(func.min(seq)).where(seq >= end))


def tile_roots(connection: Connection) -> dict[int, bytes]:
    """Return the roots of whole tiles as they were stored when their entries came, by the tiles' numbers."""
    table = schema.nodes.c
    rows = connection.execute(select(table.number, table.hash).where(table.level == 1))
    return {row.number: row.hash for row in rows if isinstance(row.hash, bytes) and len(row.hash) == HASH_SIZE}
