"""What the ledger knows of the tokens in a status list, which are those whose ids begin with the id of the list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, or_, select

from broker.core.entry import Kind
from broker.core.rules import Rule, RuleIndex
from broker.core.status_list import ids_in, index_of, marked
from broker.ledger import schema
from broker.ledger.reading.hits import FACTS, RULES_IN_SQL, facts_of, in_pieces, killed
from broker.ports import Listed

_table: Final = schema.entries.c


def listed(connection: Connection, list_id: str) -> Listed | None:
    """Return one of the tokens in a list; None if there is none."""
    row = connection.execute(select(_table.at, _table.epoch).where(*_in(list_id)).limit(1)).one_or_none()
    return None if row is None else Listed(at=row.at / 1000, epoch=row.epoch)


def dead_in(
    connection: Connection, list_id: str, rules: Sequence[Rule], now: float, *, rules_in_sql: int = RULES_IN_SQL
) -> bytes:
    """Return the bits of the tokens in a list that have not expired and that one of some rules kills."""
    if len(rules) > rules_in_sql:
        rows = _dead_one_by_one(connection, list_id, RuleIndex(rules), now)
    else:
        dead = or_(*(killed(rule) for rule in rules))
        rows = in_pieces(connection, select(_table.ref).where(*_in(list_id), _table.expires_at > now, dead))
    return marked(index_of(row.ref) for row in rows)


def _dead_one_by_one(connection: Connection, list_id: str, rules: RuleIndex, now: float) -> Iterator[Row[Any]]:
    for row in in_pieces(connection, select(*FACTS).where(*_in(list_id), _table.expires_at > now)):
        if rules.killer(facts_of(row), row.epoch) is not None:
            yield row


def _in(list_id: str) -> Sequence[ColumnElement[bool]]:
    first, end = ids_in(list_id)
    return _table.kind == Kind.TOKEN_ISSUED.value, _table.ref > first, _table.ref < end
