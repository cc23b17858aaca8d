"""Find the entries that can lose what is personal: those that are meant, still have it, and record what is over."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from sqlalchemy import ColumnElement, Connection, literal, or_, select

from broker.core.erasing import Forgetting
from broker.ledger import schema
from broker.ledger.databases.expressions import has_bytes, member
from broker.ledger.keeping.living import living
from broker.ledger.reading.records import read_record
from broker.ledger.sharing.head import Head
from broker.ports import Forgettable

LOOKED_THROUGH: Final = 20_000
"""How many entries are looked through at once."""

_MILLISECONDS: Final = 1000
_table: Final = schema.entries.c
_encode: Final = msgspec.json.encode


def forgettable(connection: Connection, wanted: Forgetting, after: int, limit: int, now: float) -> Forgettable:
    """Return which entries above a place can lose their personal members; what is still in use cannot."""
    last, more = _end(connection, wanted, after)
    approval = member(_table.body, "approval").label("approval")
    query = select(_table.seq, _table.body, _table.personal, _table.kind, _table.ref, _table.expires_at, approval)
    query = query.where(_table.seq > after, _table.seq <= last, *_conditions(wanted)).order_by(_table.seq)
    meant = [row for row in connection.execute(query) if wanted.means(read_record(*row[:3]).members)]
    alive = living(connection, meant, now)
    places = [row.seq for row in meant if row.seq not in alive]
    if len(places) > limit:
        places, last, more = places[:limit], places[limit - 1], True
    return Forgettable(places, sum(1 for seq in alive if seq <= last), last, more)


def _end(connection: Connection, wanted: Forgetting, after: int) -> tuple[int, bool]:
    """Return up to where to look this time, and whether something that may be meant comes behind it.

    Entries are in the order of their times, but for steps of the clock, so that the first young one is the end.
    """
    size = Head.read(connection).frontier.size
    end = min(after + LOOKED_THROUGH, size - 1)
    if wanted.before is None:
        return end, end < size - 1
    young = select(_table.seq).where(_table.seq > after, _table.seq <= end, _table.at >= _milliseconds(wanted.before))
    first = connection.scalar(young.order_by(_table.seq).limit(1))
    return (end, end < size - 1) if first is None else (first - 1, False)


def _milliseconds(seconds: float) -> ColumnElement[int]:
    return literal(int(seconds * _MILLISECONDS))


def _conditions(wanted: Forgetting) -> Iterable[ColumnElement[bool]]:
    """Yield conditions that no entry fails that is wanted."""
    yield _table.personal.is_not(None)
    if wanted.before is not None:
        yield _table.at < _milliseconds(wanted.before)
    if wanted.ref is not None:
        yield _table.ref == wanted.ref
    if wanted.task is not None:
        yield or_(_table.task == wanted.task, _table.ref == wanted.task)
    if wanted.agent is not None:
        yield or_(_table.agent == wanted.agent, has_bytes(_table.body, b'"by":' + _encode(wanted.agent)))
    if wanted.subject is not None:
        yield or_(*(has_bytes(column, _encode(wanted.subject)) for column in (_table.personal, _table.body)))
