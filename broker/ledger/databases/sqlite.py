"""What is particular to SQLite: connections, transactions, and the statements of the hot path.

Each statement that a step of the engine runs releases the interpreter lock and has to win it back from the event loop,
which can take milliseconds. So a batch is written by few statements with many rows each, never row by row.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

import msgspec
from sqlalchemy import (
    Connection,
    Engine,
    NullPool,
    Pool,
    QueuePool,
    Row,
    create_engine,
    event,
)
from sqlalchemy.engine.interfaces import DBAPIConnection

from broker.ledger.schema import ENTRY_COLUMNS, metadata

T = TypeVar("T")

BUSY_SECONDS: Final = 2.0
"""How long a transaction waits for a lock that another process holds, before it fails as locked."""

ALLOWS_NEWER_SCHEMA: Final = False

_CACHED_STATEMENTS: Final = 256

# A statement of n rows is compiled once for each n below, so that every batch finds its statements compiled.
_ROWS: Final = (128, 64, 32, 16, 8, 4, 2, 1)

_WRITER_SETTINGS: Final = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "trusted_schema=OFF",
    "cell_size_check=ON",
    # What is deleted, and personal data that is erased, is overwritten in the file.
    "secure_delete=ON",
    # The writer copies the log back itself, after the callers have their answers: see FileWatch.
    "wal_autocheckpoint=0",
)
_READER_SETTINGS: Final = ("query_only=ON", "trusted_schema=OFF", "cell_size_check=ON", "wal_autocheckpoint=0")


def writer_engine(path: Path, *, busy_seconds: float = BUSY_SECONDS) -> Engine:
    """Return an engine whose transactions hold the write lock from their start. It keeps no connection for later."""
    return _engine(lambda: _connect(path, "mode=rw", busy_seconds), _WRITER_SETTINGS, "BEGIN IMMEDIATE", NullPool)


def reader_engine(path: Path, *, busy_seconds: float = BUSY_SECONDS) -> Engine:
    """Return an engine for a few threads whose transactions see one state of the database and cannot write.

    Nor does closing them: the last connection of a database copies its log back, but for one that may only read.
    """
    return _engine(lambda: _connect(path, "mode=ro", busy_seconds), _READER_SETTINGS, "BEGIN", QueuePool)


def offline_engine(path: Path, *, immutable: bool) -> Engine:
    """Return an engine that changes nothing, and reads even what is not text in a column of text.

    ``immutable`` also makes no file beside the database and takes no locks: for a file that nobody is using.
    """
    query = "immutable=1" if immutable else "mode=ro"
    return _engine(lambda: _lenient(path, query), _READER_SETTINGS, "BEGIN", NullPool)


def examining_engine(path: Path) -> Engine:
    """Return an engine like that of readers, which reads even what is not text in a column of text."""
    return _engine(lambda: _lenient(path, "mode=ro"), _READER_SETTINGS, "BEGIN", QueuePool)


def lenient_text(value: bytes) -> str:
    """Read what a column of text holds, even if it is none: what is not UTF-8 becomes surrogates."""
    return value.decode(errors="surrogateescape")


def integrity_problems(connection: Connection) -> list[str]:
    """Return what SQLite itself finds wrong with the structure of the file and its indexes, in its own words."""
    rows = connection.exec_driver_sql("PRAGMA integrity_check(20)").scalars()
    return [str(row) for row in rows if row != "ok"]


def schema_problems(connection: Connection) -> list[str]:
    """Return what the database has more or less than the schema: a trigger, say, would change what is written."""
    rows = connection.exec_driver_sql("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite~_%' ESCAPE '~'")
    found = {(kind, name) for kind, name in rows}
    tables = metadata.tables.values()
    expected = {("table", "alembic_version"), *(("table", table.name) for table in tables)}
    expected |= {("index", str(index.name)) for table in tables for index in table.indexes}
    strange = [f"the database has a {kind} {name!r} that does not belong there" for kind, name in found - expected]
    missing = [f"the {kind} {name!r} of the database is missing" for kind, name in expected - found]
    return sorted(strange + missing)


def copy_back(connection: Connection) -> None:
    """Copy what the write-ahead log holds into the database file, as far as no reader needs the log."""
    _checkpoint(connection, "PASSIVE")


def empty_log(connection: Connection) -> bool:
    """Copy the log back and cut it to nothing, without waiting for anybody; whether no reader was in the way."""
    patience = _pragma(connection, "busy_timeout")
    _pragma(connection, "busy_timeout=0")
    try:
        return _checkpoint(connection, "TRUNCATE") == 0
    finally:
        _pragma(connection, f"busy_timeout={patience}")


def _checkpoint(connection: Connection, mode: str) -> int:
    return _pragma(connection, f"wal_checkpoint({mode})")


def _pragma(connection: Connection, pragma: str) -> int:
    """Return the first number of the answer. The engine would begin a transaction, in which no log can be copied."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(f"PRAGMA {pragma}")
        row = cursor.fetchone()
        return 0 if row is None else int(row[0])
    finally:
        cursor.close()


def read_head(connection: Connection) -> tuple[int, bytes, int, int] | None:
    """Return size, frontier, epoch and ``changed`` as this transaction sees them; None if there is no head."""
    row = connection.exec_driver_sql("SELECT size, frontier, epoch, changed FROM head").one_or_none()
    return None if row is None else (row[0], row[1], row[2], row[3])


def move_head(connection: Connection, size: int, frontier: bytes, epoch: int, changed: int, *, expected: int) -> bool:
    """Write the head if its size is the expected one, and say whether it was: compare and swap."""
    sql = "UPDATE head SET size = ?, frontier = ?, epoch = ?, changed = ? WHERE size = ?"
    return connection.exec_driver_sql(sql, (size, frontier, epoch, changed, expected)).rowcount == 1


def touch(connection: Connection) -> None:
    """Write without changing anything: fails exactly where a change would."""
    connection.exec_driver_sql("UPDATE head SET size = size")


def insert_entries(connection: Connection, rows: Sequence[tuple[object, ...]]) -> None:
    """Insert entries; a row has the values of ``ENTRY_COLUMNS`` in their order."""
    _insert(connection, f"INSERT INTO entries ({', '.join(ENTRY_COLUMNS)}) VALUES", rows)


def insert_nodes(connection: Connection, rows: Sequence[tuple[int, int, bytes]]) -> None:
    """Insert nodes of the Merkle tree: level, number, hash."""
    _insert(connection, "INSERT INTO nodes (level, number, hash) VALUES", rows)


def leaf_hashes(connection: Connection, start: int, end: int) -> list[bytes] | None:
    """Return the leaf hashes of the entries from one place to before another, or None if they are not all there."""
    sql = "SELECT json_group_array(json_array(seq, hex(leaf))) FROM entries WHERE seq >= ? AND seq < ?"
    return _hashes(connection, sql, (start, end))


def node_hashes(connection: Connection, level: int, start: int, end: int) -> list[bytes] | None:
    """Return the nodes of a level from one number to before another, or None if they are not all there."""
    columns = "json_group_array(json_array(number, hex(hash)))"
    sql = f"SELECT {columns} FROM nodes WHERE level = ? AND number >= ? AND number < ?"  # noqa: S608 - our own names
    return _hashes(connection, sql, (level, start, end))


def read_entries(connection: Connection, first: int, end: int, limit: int) -> Sequence[Row[Any]]:
    """Return the entries from place ``first`` up to ``end``, in order, ``limit`` at most; see ``ENTRY_COLUMNS``."""
    sql = f"SELECT {', '.join(ENTRY_COLUMNS)} FROM entries WHERE seq >= ? AND seq < ? ORDER BY seq LIMIT ?"  # noqa: S608
    return connection.exec_driver_sql(sql, (first, end, limit)).fetchall()


def insert_single_use(connection: Connection, rows: Sequence[tuple[bytes, int]]) -> None:
    """Remember keys that are used up, with the time at which they may be forgotten."""
    _insert(connection, "INSERT INTO single_use (key, expires_at) VALUES", rows)


def used_keys(connection: Connection, keys: Sequence[bytes]) -> set[bytes]:
    """Return which of the keys are used up."""
    found: set[bytes] = set()
    for start, count in _pieces(len(keys)):
        marks = ",".join("?" * count)
        sql = f"SELECT key FROM single_use WHERE key IN ({marks})"  # noqa: S608 - question marks only
        rows = connection.exec_driver_sql(sql, tuple(keys[start : start + count]))
        found.update(row[0] for row in rows)
    return found


def rate_counts(connection: Connection, keys: Sequence[str], after: int) -> dict[str, dict[int, int]]:
    """Return how many changes each key counts in each of its steps above ``after``."""
    # One row with everything in it, so that the engine is stepped once.
    sql = (
        "SELECT json_group_array(json_array(key, step, count)) FROM rates"
        " WHERE key IN (SELECT value FROM json_each(?)) AND step > ?"
    )
    text = connection.exec_driver_sql(sql, (_json(list(keys)), after)).scalar_one()
    counts: dict[str, dict[int, int]] = {key: {} for key in keys}
    for key, step, count in msgspec.json.decode(text, type=list[tuple[str, int, int]]):
        counts[key][step] = count
    return counts


def add_rates(connection: Connection, counts: Mapping[tuple[str, int], int]) -> None:
    """Add to the counts of (key, step) pairs."""
    sql = (
        "INSERT INTO rates (key, step, count)"
        " SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]')"
        " FROM json_each(?) WHERE true"
        " ON CONFLICT (key, step) DO UPDATE SET count = count + excluded.count"
    )
    connection.exec_driver_sql(sql, (_json([(*pair, count) for pair, count in counts.items()]),))


def prepare_schema(connection: Connection) -> None:
    """Let nobody else change the schema: the transaction has the write lock already."""
    del connection


def finish_schema(connection: Connection) -> None:
    """Do nothing: what the migrations make is what SQLite needs."""
    del connection


def _engine(connect: Callable[[], sqlite3.Connection], settings: Iterable[str], begin: str, pool: type[Pool]) -> Engine:
    # The text of an error must not repeat what was being written.
    engine = create_engine("sqlite+pysqlite://", creator=connect, poolclass=pool, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def configure(connection: DBAPIConnection, _record: object) -> None:
        cursor = connection.cursor()
        for setting in settings:
            cursor.execute(f"PRAGMA {setting}")
        cursor.close()

    # The driver is told to begin nothing by itself (isolation_level=None), so that reads are transactions, too.
    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _lenient(path: Path, query: str) -> sqlite3.Connection:
    connection = _connect(path, query, BUSY_SECONDS)
    connection.text_factory = lenient_text
    return connection


def _connect(path: Path, query: str, busy_seconds: float) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(str(path))}?{query}",
        uri=True,
        timeout=busy_seconds,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=_CACHED_STATEMENTS,
    )


def _hashes(connection: Connection, sql: str, place: tuple[int, ...]) -> list[bytes] | None:
    # One row with everything in it, as above.
    text = connection.exec_driver_sql(sql, place).scalar_one()
    found = dict(msgspec.json.decode(text, type=list[tuple[int, str]]))
    wanted = range(place[-2], place[-1])
    return [bytes.fromhex(found[number]) for number in wanted] if len(found) == len(wanted) else None


def _insert(connection: Connection, prefix: str, rows: Sequence[tuple[object, ...]]) -> None:
    if not rows:
        return
    marks = f"({','.join('?' * len(rows[0]))})"
    for start, count in _pieces(len(rows)):
        values = [value for row in rows[start : start + count] for value in row]
        connection.exec_driver_sql(f"{prefix} {','.join([marks] * count)}", tuple(values))


def _pieces(total: int) -> Iterable[tuple[int, int]]:
    """Cut a number of rows into pieces whose sizes are in ``_ROWS``: start and size of each."""
    start = 0
    for count in _ROWS:
        while total - start >= count:
            yield start, count
            start += count


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
