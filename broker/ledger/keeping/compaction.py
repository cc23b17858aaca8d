"""Forget what has ended (law 11), a bounded number of rows at a time, so that no change waits long behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import ColumnElement, Connection, Table, delete, exists, select, tuple_

from broker.core.change import RATE_STEP
from broker.ledger import schema
from broker.ledger.writing.approval_book import ended_before
from broker.ledger.writing.group_commit import GroupCommit
from broker.ledger.writing.task_rows import chunks

CHUNK: Final = 2000
"""The most rows deleted in one transaction."""

MEMORY_SECONDS: Final = 24 * 3600.0
"""Seconds that tasks, actions, leases and approvals are kept after their end, so that people can look at them."""

_RATE_MEMORY: Final = 120.0
"""Seconds that the counts of a rate stay: the minute they serve, and as much again for a clock that is set back."""


async def forget_ended_rows(group: GroupCommit, now: float) -> int:
    """Delete the rows that have ended before ``now`` (Unix seconds); return how many. Raises ``Unavailable``."""
    tables = schema
    total = await group.run(lambda connection: _forget_tasks(connection, now))
    for table, ended in (
        (tables.single_use, tables.single_use.c.expires_at <= now),
        (tables.rates, tables.rates.c.step < (now - _RATE_MEMORY) / RATE_STEP),
        (tables.idempotency, tables.idempotency.c.expires_at <= now),
        (tables.enrollments, tables.enrollments.c.expires_at <= now),
        (tables.actions, tables.actions.c.settle_by <= now - MEMORY_SECONDS),
        (tables.leases, tables.leases.c.settled_at <= now - MEMORY_SECONDS),
        (tables.approvals, ended_before(now - MEMORY_SECONDS)),
        (tables.votes, ~exists().where(tables.approvals.c.id == tables.votes.c.approval)),
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


def _forget_tasks(connection: Connection, now: float) -> int:
    """Delete tasks that ended long ago, the deepest first: one that has something below it stays."""
    table, child = schema.tasks, schema.tasks.alias()
    ended = (table.c.deadline <= now - MEMORY_SECONDS) | (table.c.closed_at <= now - MEMORY_SECONDS)
    start = table.c.path.concat(table.c.id)
    below = exists().where(child.c.path >= start.concat("/"), child.c.path < start.concat("0"))
    query = select(table.c.id).where(ended, table.c.holds_until <= now - MEMORY_SECONDS, ~below).limit(CHUNK)
    forgotten = list(connection.scalars(query))
    for ids in chunks(forgotten):
        connection.execute(delete(schema.budgets).where(schema.budgets.c.task.in_(ids)))
        connection.execute(delete(table).where(table.c.id.in_(ids)))
    return len(forgotten)


def _delete_some(connection: Connection, table: Table, ended: ColumnElement[bool]) -> int:
    columns: Sequence[ColumnElement[object]] = tuple(table.primary_key.columns)
    key = columns[0] if len(columns) == 1 else tuple_(*columns)
    some = select(*columns).where(ended).limit(CHUNK)
    return connection.execute(delete(table).where(key.in_(some))).rowcount
