"""What is particular to PostgreSQL: the statements of the hot path, and what its catalogue says.

Each statement is a round trip, while the head is locked for everybody. So a batch is written by few statements with
many rows each, which come as one array for each column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row

from broker.ledger.schema import ENTRY_COLUMNS, metadata

_MIGRATING: Final = 0x62726B31
"""The class of the advisory lock that whoever changes the schema of a ledger holds."""

LEADING: Final = 0x62726B32
"""The class of the advisory lock that the session of the replica that leads holds."""

ALLOWS_NEWER_SCHEMA: Final = True

CHANNEL: Final = "broker_ledger"
"""What a process listens to that must know at once of what others have committed."""

_BYTES: Final = frozenset({"leaf", "body", "personal"})
_WHOLE: Final = frozenset({"seq", "at", "epoch", "expires_at"})
_COLUMNS: Final = ", ".join(ENTRY_COLUMNS)
_ARRAYS: Final = ", ".join(
    f"%s::{'bytea' if name in _BYTES else 'bigint' if name in _WHOLE else 'text'}[]" for name in ENTRY_COLUMNS
)
_INSERT_ENTRIES: Final = f"INSERT INTO entries ({_COLUMNS}) SELECT * FROM unnest({_ARRAYS})"  # noqa: S608 - our own names
_READ_ENTRIES: Final = f"SELECT {_COLUMNS} FROM entries WHERE seq >= %s AND seq < %s ORDER BY seq LIMIT %s"  # noqa: S608

_FOUND: Final = """
SELECT 'table', relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'
UNION ALL
SELECT 'index', relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'i'
"""
# What would change what is written to our tables, or hide something of it.
_STRANGE: Final = """
SELECT 'trigger', tgname FROM pg_trigger WHERE tgrelid = ANY(%(tables)s::regclass[]) AND NOT tgisinternal
UNION ALL
SELECT 'rule', rulename FROM pg_rewrite WHERE ev_class = ANY(%(tables)s::regclass[])
UNION ALL
SELECT 'policy', polname FROM pg_policy WHERE polrelid = ANY(%(tables)s::regclass[])
"""
_WRONGLY_SORTED: Final = """
SELECT format('%%I', c.relname), format('%%I', a.attname)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' AND c.relname = ANY(%(tables)s)
  AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid = 'text'::regtype
  AND a.attcollation <> '"C"'::regcollation
"""


def read_head(connection: Connection) -> tuple[int, bytes, int, int] | None:
    """Return size, frontier, epoch and ``changed`` as this transaction sees them; None if there is no head."""
    row = connection.exec_driver_sql("SELECT size, frontier, epoch, changed FROM head").one_or_none()
    return None if row is None else (row[0], row[1], row[2], row[3])


def move_head(connection: Connection, size: int, frontier: bytes, epoch: int, changed: int, *, expected: int) -> bool:
    """Write the head if its size is the expected one, and say whether it was: compare and swap.

    If others have something to load by it, they are notified once the transaction has committed.
    """
    sql = "UPDATE head SET size = %s, frontier = %s, epoch = %s, changed = %s WHERE size = %s"
    moved = connection.exec_driver_sql(sql, (size, frontier, epoch, changed, expected)).rowcount == 1
    if changed > expected:
        connection.exec_driver_sql(f"NOTIFY {CHANNEL}")
    return moved


def touch(connection: Connection) -> None:
    """Write without changing anything: fails exactly where a change would."""
    connection.exec_driver_sql("UPDATE head SET size = size")


def insert_entries(connection: Connection, rows: Sequence[tuple[object, ...]]) -> None:
    """Insert entries; a row has the values of ``ENTRY_COLUMNS`` in their order."""
    connection.exec_driver_sql(_INSERT_ENTRIES, _columns(rows))


def insert_nodes(connection: Connection, rows: Sequence[tuple[int, int, bytes]]) -> None:
    """Insert nodes of the Merkle tree: level, number, hash."""
    if rows:
        sql = "INSERT INTO nodes (level, number, hash) SELECT * FROM unnest(%s::int[], %s::bigint[], %s::bytea[])"
        connection.exec_driver_sql(sql, _columns(rows))


def leaf_hashes(connection: Connection, start: int, end: int) -> list[bytes] | None:
    """Return the leaf hashes of the entries from one place to before another, or None if they are not all there."""
    sql = "SELECT leaf FROM entries WHERE seq >= %s AND seq < %s ORDER BY seq"
    return _all(connection.exec_driver_sql(sql, (start, end)).fetchall(), end - start)


def node_hashes(connection: Connection, level: int, start: int, end: int) -> list[bytes] | None:
    """Return the nodes of a level from one number to before another, or None if they are not all there."""
    sql = "SELECT hash FROM nodes WHERE level = %s AND number >= %s AND number < %s ORDER BY number"
    return _all(connection.exec_driver_sql(sql, (level, start, end)).fetchall(), end - start)


def read_entries(connection: Connection, first: int, end: int, limit: int) -> Sequence[Row[Any]]:
    """Return the entries from place ``first`` up to ``end``, in order, ``limit`` at most; see ``ENTRY_COLUMNS``."""
    return connection.exec_driver_sql(_READ_ENTRIES, (first, end, limit)).fetchall()


def insert_single_use(connection: Connection, rows: Sequence[tuple[bytes, int]]) -> None:
    """Remember keys that are used up, with the time at which they may be forgotten."""
    sql = "INSERT INTO single_use (key, expires_at) SELECT * FROM unnest(%s::bytea[], %s::bigint[])"
    connection.exec_driver_sql(sql, _columns(rows))


def used_keys(connection: Connection, keys: Sequence[bytes]) -> set[bytes]:
    """Return which of the keys are used up."""
    rows = connection.exec_driver_sql("SELECT key FROM single_use WHERE key = ANY(%s::bytea[])", (list(keys),))
    return {row[0] for row in rows}


def rate_counts(connection: Connection, keys: Sequence[str], after: int) -> dict[str, dict[int, int]]:
    """Return how many changes each key counts in each of its steps above ``after``."""
    sql = "SELECT key, step, count FROM rates WHERE key = ANY(%s::text[]) AND step > %s"
    counts: dict[str, dict[int, int]] = {key: {} for key in keys}
    for key, step, count in connection.exec_driver_sql(sql, (list(keys), after)):
        counts[key][step] = count
    return counts


def add_rates(connection: Connection, counts: Mapping[tuple[str, int], int]) -> None:
    """Add to the counts of (key, step) pairs."""
    sql = (
        "INSERT INTO rates (key, step, count) SELECT * FROM unnest(%s::text[], %s::bigint[], %s::bigint[])"
        " ON CONFLICT (key, step) DO UPDATE SET count = rates.count + excluded.count"
    )
    connection.exec_driver_sql(sql, _columns([(*pair, count) for pair, count in counts.items()]))


def integrity_problems(connection: Connection) -> list[str]:
    """Return what the server itself finds wrong: nothing. Its pages have checksums, and amcheck is for operators."""
    del connection
    return []


def schema_problems(connection: Connection) -> list[str]:
    """Return what the ledger's tables have more or less than the schema: a trigger would change what is written.

    Other tables beside them are nobody's business; extensions have some.
    """
    tables = metadata.tables.values()
    expected = {("table", "alembic_version"), *(("table", table.name) for table in tables)}
    expected |= {("index", str(index.name)) for table in tables for index in table.indexes}
    found = {(kind, name) for kind, name in connection.exec_driver_sql(_FOUND)}
    missing = [f"the {kind} {name!r} of the database is missing" for kind, name in expected - found]
    there = [name for kind, name in expected & found if kind == "table"]
    strangers = connection.exec_driver_sql(_STRANGE, {"tables": there}).all()
    strange = [f"the database has a {kind} {name!r} that does not belong there" for kind, name in strangers]
    wrong = connection.exec_driver_sql(_WRONGLY_SORTED, {"tables": there}).all()
    unsorted = [f"the column {table}.{column} is not sorted byte by byte" for table, column in wrong]
    return sorted(strange + missing + unsorted)


def prepare_schema(connection: Connection) -> None:
    """Let nobody else change the schema until the transaction ends."""
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s, hashtext(current_schema()))", (_MIGRATING,))


def finish_schema(connection: Connection) -> None:
    """Let all texts be compared byte by byte, as SQLite and Python do: ranges of paths and pages by id rely on it."""
    tables = ["alembic_version", *metadata.tables]
    for table, column in connection.exec_driver_sql(_WRONGLY_SORTED, {"tables": tables}).all():
        connection.exec_driver_sql(f'ALTER TABLE {table} ALTER COLUMN {column} TYPE text COLLATE "C"')


def _columns(rows: Sequence[tuple[object, ...]]) -> tuple[list[object], ...]:
    return tuple(list(column) for column in zip(*rows, strict=True))


def _all(rows: Sequence[Row[Any]], wanted: int) -> list[bytes] | None:
    return [row[0] for row in rows] if len(rows) == wanted else None
