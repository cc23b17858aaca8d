"""Fills a ledger with entries by SQL, as committing would leave it, in seconds: proofs depend on the tree alone."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from broker.core.change import Change
from broker.core.merkle import Frontier
from broker.core.personal import SALT_SIZE
from broker.ids import RandomIds
from broker.ledger.rows import entry_row
from broker.ledger.schema import ENTRY_COLUMNS
from tests.bench.seed import issued


def fill(path: Path, count: int) -> None:
    """Add entries of tokens to the ledger at ``path`` until it has ``count``; no broker may be running on it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        size, nodes, epoch = database.execute("SELECT size, frontier, epoch FROM head").fetchone()
        leaves: list[bytes] = []
        database.execute("BEGIN")
        marks = ", ".join("?" * len(ENTRY_COLUMNS))
        sql = f"INSERT INTO entries ({', '.join(ENTRY_COLUMNS)}) VALUES ({marks})"  # noqa: S608 - our own names
        database.executemany(sql, _rows(size, count, epoch, leaves))
        frontier, completed = Frontier.from_bytes(size, nodes).extend(leaves)
        database.executemany("INSERT INTO nodes (level, number, hash) VALUES (?, ?, ?)", completed)
        database.execute("UPDATE head SET size = ?, frontier = ?", (frontier.size, frontier.to_bytes()))
        database.execute("COMMIT")


def _rows(start: int, end: int, epoch: int, leaves: list[bytes]) -> Iterator[tuple[object, ...]]:
    """Yield the rows of entries, and put their hashes into ``leaves``."""
    ids, now = RandomIds(), time.time()
    for seq in range(start, end):
        row = entry_row(Change(issued(ids, now, epoch)), secrets.token_bytes(SALT_SIZE))
        leaves.append(row[0])
        yield (seq, *row)
