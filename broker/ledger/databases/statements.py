"""The statements of the hot path and what else a database does in its own way: what every one of them must offer.

Which database it is, the connection says; this is the only place that asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from sqlalchemy import Connection, Row

from broker.ledger.databases import postgresql, sqlite


class Statements(Protocol):
    """What a database offers. Nothing here commits."""

    ALLOWS_NEWER_SCHEMA: bool
    """Whether a broker goes on with the schema of a newer version, if the data still mean the same: while the replicas
    of one database are upgraded one after the other."""

    def read_head(self, connection: Connection) -> tuple[int, bytes, int, int] | None:
        """Return size, frontier, epoch and ``changed`` as this transaction sees them; None if there is no head."""
        ...

    def move_head(
        self, connection: Connection, size: int, frontier: bytes, epoch: int, changed: int, *, expected: int
    ) -> bool:
        """Write the head if its size is the expected one, and say whether it was: compare and swap."""
        ...

    def touch(self, connection: Connection) -> None:
        """Write without changing anything: fails exactly where a change would."""
        ...

    def insert_entries(self, connection: Connection, rows: Sequence[tuple[object, ...]]) -> None:
        """Insert entries; a row has the values of ``ENTRY_COLUMNS`` in their order."""
        ...

    def insert_nodes(self, connection: Connection, rows: Sequence[tuple[int, int, bytes]]) -> None:
        """Insert nodes of the Merkle tree: level, number, hash."""
        ...

    def leaf_hashes(self, connection: Connection, start: int, end: int) -> list[bytes] | None:
        """Return the leaf hashes of the entries from one place to before another, or None if not all are there."""
        ...

    def node_hashes(self, connection: Connection, level: int, start: int, end: int) -> list[bytes] | None:
        """Return the nodes of a level from one number to before another, or None if they are not all there."""
        ...

    def read_entries(self, connection: Connection, first: int, end: int, limit: int) -> Sequence[Row[Any]]:
        """Return the entries from place ``first`` up to ``end``, in order, ``limit`` at most."""
        ...

    def insert_single_use(self, connection: Connection, rows: Sequence[tuple[bytes, int]]) -> None:
        """Remember keys that are used up, with the time at which they may be forgotten."""
        ...

    def used_keys(self, connection: Connection, keys: Sequence[bytes]) -> set[bytes]:
        """Return which of the keys are used up."""
        ...

    def rate_counts(self, connection: Connection, keys: Sequence[str], after: int) -> dict[str, dict[int, int]]:
        """Return how many changes each key counts in each of its steps above ``after``."""
        ...

    def add_rates(self, connection: Connection, counts: Mapping[tuple[str, int], int]) -> None:
        """Add to the counts of (key, step) pairs."""
        ...

    def integrity_problems(self, connection: Connection) -> list[str]:
        """Return what the database itself finds wrong with what it stores, in its own words."""
        ...

    def schema_problems(self, connection: Connection) -> list[str]:
        """Return what the database has more or less than the schema."""
        ...

    def prepare_schema(self, connection: Connection) -> None:
        """Let nobody else change the schema until the transaction ends."""
        ...

    def finish_schema(self, connection: Connection) -> None:
        """Bring what the migrations have made into the shape that this database needs."""
        ...


_OF: Final[Mapping[str, Statements]] = {"sqlite": sqlite, "postgresql": postgresql}


def of(connection: Connection) -> Statements:
    """Return what the database behind a connection offers."""
    return _OF[connection.dialect.name]
