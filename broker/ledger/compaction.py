"""Forget what has ended (law 11), a bounded number of rows at a time, so that no change waits long behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import ColumnElement, Connection, Table, delete, select, tuple_

from broker.core.change import RATE_STEP
from broker.ledger import schema
from broker.ledger.group_commit import GroupCommit

CHUNK: Final = 2000
"""The most rows deleted in one transaction."""

_RATE_MEMORY: Final = 120.0
"""Seconds that the counts of a rate stay: the minute they serve, and as much again for a clock that is set back."""


async def forget_ended_rows(group: GroupCommit, now: float) -> int:
    """Delete the rows that have ended before ``now`` (Unix seconds); return how many. Raises ``Unavailable``."""
    tables = schema
    total = 0
    for table, ended in (
        (tables.single_use, tables.single_use.c.expires_at <= now),
        (tables.rates, tables.rates.c.step < (now - _RATE_MEMORY) / RATE_STEP),
        (tables.idempotency, tables.idempotency.c.expires_at <= now),
        (tables.enrollments, tables.enrollments.c.expires_at <= now),
    ):
        total += await _forget(group, table, ended)
    return total


async def _forget(group: GroupCommit, table: Table, ended: ColumnElement[bool]) -> int:
    total = 0
    while True:
        deleted = await group.run(lambda connection: _delete_some(connection, table, ended))
        total += deleted
        if deleted < CHUNK:
            return total


def _delete_some(connection: Connection, table: Table, ended: ColumnElement[bool]) -> int:
    columns: Sequence[ColumnElement[object]] = tuple(table.primary_key.columns)
    key = columns[0] if len(columns) == 1 else tuple_(*columns)
    some = select(*columns).where(ended).limit(CHUNK)
    return connection.execute(delete(table).where(key.in_(some))).rowcount
