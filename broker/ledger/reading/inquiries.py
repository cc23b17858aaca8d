"""Find the entries that a question is about: the columns and the bytes narrow them down, their members decide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
from sqlalchemy import ColumnElement, Connection, literal, or_, select

from broker.core.entry import Kind
from broker.core.inquiry import EntryFilter, Related, is_about
from broker.core.selector import fact_line
from broker.ledger import schema
from broker.ledger.databases.expressions import has_bytes, has_text, member
from broker.ledger.reading import task_records
from broker.ledger.reading.records import ENTRY, read_record
from broker.ledger.rows import MAX_PAGE
from broker.ledger.sharing.head import Head
from broker.ledger.writing.task_rows import below
from broker.ports import FoundRecords, Record

LOOKED_THROUGH: Final = 100_000
"""How many entries one page looks through at most; the next page goes on from there."""

MAX_RELATED: Final = 5_000
"""How many tasks below a task, and tokens that descend from a token, are followed; the oldest count."""

_table: Final = schema.entries.c
_encode: Final = msgspec.json.encode


def find(connection: Connection, wanted: EntryFilter, after: int, limit: int) -> FoundRecords:
    """Return entries above a place that are about what is asked, the oldest first."""
    limit, size = max(1, min(limit, MAX_PAGE)), Head.read(connection).frontier.size
    after = max(after, _before_first(connection, wanted))
    last = min(after + LOOKED_THROUGH, size - 1)
    found: list[Record] = []
    for record in _candidates(connection, wanted, _related(connection, wanted), after, last):
        found.append(record)
        if len(found) == limit:
            last = record.seq
            break
    return FoundRecords(found, last if last < size - 1 else None)


def _candidates(
    connection: Connection, wanted: EntryFilter, related: Related, after: int, last: int
) -> Iterator[Record]:
    query = ENTRY.where(_table.seq > after, _table.seq <= last)
    query = query.where(*_conditions(wanted, related)).order_by(_table.seq)
    with connection.execute(query) as rows:
        for row in rows:
            record = read_record(*row)
            if is_about(record.members, wanted, related):
                yield record


def _conditions(wanted: EntryFilter, related: Related) -> Iterator[ColumnElement[bool]]:
    """Yield conditions that no entry fails that is wanted; those on the columns before the body come first."""
    if wanted.kinds:
        yield _table.kind.in_(wanted.kinds)
    if wanted.since is not None:
        yield _table.at >= literal(wanted.since * 1000)
    if wanted.until is not None:
        yield _table.at < literal(wanted.until * 1000)
    if wanted.agent is not None:
        yield or_(_said(wanted.agent), has_bytes(_table.personal, _encode(wanted.agent)))
    for value in (wanted.lease, wanted.approval, wanted.incident):
        if value is not None:
            yield _said(value)
    if wanted.task is not None:
        yield or_(_table.task.in_(related.tasks), _said(wanted.task))
    if wanted.token is not None:
        used = member(_table.body, "token").in_(related.tokens)
        yield or_(_said(wanted.token), *([_table.ref.in_(related.tokens), used] if related.tokens else ()))


def _said(value: str) -> ColumnElement[bool]:
    """Return the condition that the body holds a text as a whole JSON text, wherever."""
    return has_bytes(_table.body, _encode(value))


def _before_first(connection: Connection, wanted: EntryFilter) -> int:
    """Return a place before all that is wanted: nothing names a token, say, before it is recorded itself."""
    places = [-1]
    for ref in (wanted.token, wanted.lease, wanted.approval):
        if ref is not None:
            first = connection.scalar(select(_table.seq).where(_table.ref == ref).order_by(_table.seq).limit(1))
            places.append(-1 if first is None else first - 1)
    return max(places)


def _related(connection: Connection, wanted: EntryFilter) -> Related:
    tasks, tokens = frozenset[str](), frozenset[str]()
    if wanted.task is not None and (state := task_records.task(connection, wanted.task)) is not None:
        ids = select(schema.tasks.c.id).where(below(state.task)).order_by(schema.tasks.c.id).limit(MAX_RELATED)
        tasks = frozenset(connection.scalars(ids))
    if wanted.token is not None:
        tokens = _descendants(connection, wanted.token)
    return Related(tasks=tasks, tokens=tokens)


def _descendants(connection: Connection, token: str) -> frozenset[str]:
    """Return the tokens that descend from one. None outlives it, so that the index on their ends finds them."""
    issued = _table.kind == Kind.TOKEN_ISSUED.value
    own = select(_table.at, _table.expires_at).where(_table.ref == token, issued).order_by(_table.seq).limit(1)
    if (row := connection.execute(own).one_or_none()) is None:
        return frozenset()
    living = _table.expires_at.between(row.at // 1000, row.expires_at)
    descends = has_text(_table.lineage, fact_line(("token", token)))
    query = select(_table.ref).where(issued, living, descends).order_by(_table.seq).limit(MAX_RELATED)
    return frozenset(ref for ref in connection.scalars(query) if ref is not None)
