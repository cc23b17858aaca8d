"""Who is there: the tables of replicas and verifiers, which are beside the record and have no entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, case, delete, insert, select, text

from broker.core.propagation import Present, Replica, Verifier
from broker.ledger import schema
from broker.ledger.databases import expressions
from broker.ports import Acknowledged, Left

_HEARD: Final = text(
    "INSERT INTO verifiers (agent, name, epoch, max_age, seen_at, since)"
    " VALUES (:agent, :name, :epoch, :max_age, :now, :now)"
    " ON CONFLICT (agent, name) DO UPDATE SET seen_at = excluded.seen_at,"
    " max_age = CASE WHEN excluded.epoch < verifiers.epoch THEN verifiers.max_age ELSE excluded.max_age END,"
    " epoch = CASE WHEN excluded.epoch < verifiers.epoch THEN verifiers.epoch ELSE excluded.epoch END"
)
_LEFT: Final = text("DELETE FROM verifiers WHERE agent = :agent AND name = :name")


def moment(connection: Connection) -> float:
    """Return the time by the database's clock, in Unix seconds."""
    return float(connection.scalars(select(expressions.moment())).one())


def heard(connection: Connection, told: Sequence[Acknowledged | Left]) -> None:
    """Take note of what verifiers said, all at once."""
    now = moment(connection)
    news = [
        {"agent": each.agent, "name": each.name, "epoch": each.epoch, "max_age": each.max_age, "now": now}
        for each in told
        if isinstance(each, Acknowledged)
    ]
    gone = [{"agent": each.agent, "name": each.name} for each in told if isinstance(each, Left)]
    if news:
        connection.execute(_HEARD, news)
    if gone:
        connection.execute(_LEFT, gone)


def tell(connection: Connection, replica: Replica) -> None:
    """Write down what a replica is now, and since when it is there."""
    now, table = moment(connection), schema.replicas
    is_it = table.c.id == replica.id
    since = connection.scalar(select(table.c.since).where(is_it))
    connection.execute(delete(table).where(is_it))
    values = {name: getattr(replica, name) for name in _TOLD}
    connection.execute(insert(table).values(**values, seen_at=now, since=now if since is None else since))


def leave(connection: Connection, replica_id: str) -> None:
    """Forget a replica."""
    connection.execute(delete(schema.replicas).where(schema.replicas.c.id == replica_id))


def present(connection: Connection) -> Present:
    """Return everybody, verifiers by agent and name, replicas by id."""
    replicas, verifiers = schema.replicas.c, schema.verifiers.c
    own = [replicas[name] for name in _TOLD]
    there = select(*own, *_seconds(replicas)).order_by(replicas.id)
    said = [verifiers.agent, verifiers.name, verifiers.epoch, verifiers.max_age]
    listening = select(*said, *_seconds(verifiers)).order_by(verifiers.agent, verifiers.name)
    return Present(
        [Replica(**row) for row in connection.execute(there).mappings()],
        [Verifier(**row) for row in connection.execute(listening).mappings()],
    )


def forget_silent(connection: Connection, since: float) -> int:
    """Forget everybody who was not heard since a time by the database's clock; return how many."""
    tables = (schema.verifiers, schema.replicas)
    return sum(connection.execute(delete(table).where(table.c.seen_at < since)).rowcount for table in tables)


_TOLD: Final = ("id", "host", "pid", "version", "policy", "epoch", "max_staleness")


def _seconds(table: Any) -> Sequence[ColumnElement[float]]:  # noqa: ANN401 - a table's columns
    """Return for how long a row was not written, and for how long it is there. A clock that was set back gives 0."""
    now = expressions.moment()
    passed = (("silent", now - table.seen_at), ("known", now - table.since))
    return [case((seconds > 0, seconds), else_=0.0).label(name) for name, seconds in passed]
