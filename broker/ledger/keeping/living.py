"""Which entries record something that is still in use: what is personal about it cannot be forgotten yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, or_, select

from broker.core.approval import APPROVED, PENDING, REDEEM_SECONDS, UNREVIEWED
from broker.core.entry import Kind
from broker.ledger import schema
from broker.ledger.writing.task_rows import chunks

_TOKENS: Final = frozenset({Kind.TOKEN_ISSUED.value, Kind.IDENTITY_TOKEN_ISSUED.value})


def living(connection: Connection, rows: Sequence[Any], now: float) -> frozenset[int]:
    """Return the places of those entries whose token, task, lease, action, approval or rule is not over at ``now``.

    What is over stays so. Rows have ``seq``, ``kind``, ``ref``, ``expires_at``, and ``approval``, what they rest on.
    """
    named = {ref for row in rows for ref in (row.ref, row.approval) if ref is not None}
    alive = set(_alive(connection, sorted(named), now))
    return frozenset(row.seq for row in rows if row.ref in alive or row.approval in alive or _lives(row, now))


def _lives(row: Any, now: float) -> bool:  # noqa: ANN401 - as above
    return row.kind in _TOKENS and (row.expires_at or 0) > now


def _alive(connection: Connection, refs: Sequence[str], now: float) -> Iterator[str]:
    for some in chunks(refs):
        for query in (_tasks, _leases, _actions, _approvals, _rules):
            yield from connection.scalars(query(some, now))


def _tasks(refs: Sequence[str], now: float) -> Select[str]:
    table = schema.tasks.c
    return select(table.id).where(table.id.in_(refs), table.closed_at.is_(None), table.deadline > now)


def _leases(refs: Sequence[str], _now: float) -> Select[str]:
    table = schema.leases.c
    return select(table.id).where(table.id.in_(refs), table.settled_at.is_(None))


def _actions(refs: Sequence[str], now: float) -> Select[str]:
    table = schema.actions.c
    return select(table.id).where(table.id.in_(refs), table.outcome.is_(None), table.settle_by > now)


def _approvals(refs: Sequence[str], now: float) -> Select[str]:
    """The conditions say of a request what :meth:`broker.core.approval.ApprovalState.state` says."""
    table = schema.approvals.c
    alive = or_(
        table.state == UNREVIEWED,
        and_(table.state == PENDING, table.expires_at > now),
        and_(table.state == APPROVED, table.expires_at + REDEEM_SECONDS > now),
    )
    return select(table.id).where(table.id.in_(refs), alive)


def _rules(refs: Sequence[str], now: float) -> Select[str]:
    rules, blocks = schema.rules.c, schema.blocks.c
    in_force: ColumnElement[bool] = and_(
        blocks.rule == rules.number, blocks.lifted_at.is_(None), or_(blocks.until.is_(None), blocks.until > now)
    )
    return select(rules.id).where(rules.id.in_(refs), or_(rules.ends_at > now, exists().where(in_force)))
