"""What it takes to compare the tables of a ledger with its entries while both go on changing."""

from __future__ import annotations

from sqlalchemy import Connection, Select, and_, or_, select

from broker.core.entry import Kind
from broker.ledger import schema
from broker.ledger.databases.expressions import has_bytes
from broker.ledger.verifying.derived import BY_THEMSELVES


def stored_ids(connection: Connection) -> frozenset[str]:
    """Return what is stored, of that which is forgotten some time after its end."""
    tables = (schema.tasks, schema.actions, schema.approvals, schema.leases)
    return frozenset(each for table in tables for each in connection.scalars(select(table.c.id)))


def told_since(first: int) -> Select[int, bytes, bytes | None]:
    """Return the query for entries from ``first`` on that other tables depend on: see ``bears_on_tables``."""
    table = schema.entries.c
    approved = and_(table.kind == Kind.TOKEN_ISSUED.value, has_bytes(table.body, b'"approval"'))
    others = [kind.value for kind in (*BY_THEMSELVES, Kind.TOKEN_ISSUED)]
    matters = or_(table.kind.not_in(others), approved)
    query = select(table.seq, table.body, table.personal)
    return query.where(table.seq >= first, matters).order_by(table.seq)
