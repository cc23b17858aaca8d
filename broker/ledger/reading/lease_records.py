"""Reading leases: lists, what is to be done, and how many there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy import ColumnElement, Connection, and_, case, func, or_, select, true

from broker.core.lease import LeaseState, LeaseStatus
from broker.core.selector import Selector, fact_line
from broker.ledger import schema
from broker.ledger.databases.expressions import has_text
from broker.ledger.rows import page_of
from broker.ledger.writing.lease_book import load_leases, read_lease
from broker.ports import LeaseFilter, LeaseHits

_table: Final = schema.leases.c
_unsettled: Final = _table.settled_at.is_(None)
_started: Final = _table.status.in_((LeaseStatus.OPENING.value, LeaseStatus.LIVE.value))
_running: Final = and_(_unsettled, or_(_started, _table.held))


def lease(connection: Connection, lease_id: str) -> LeaseState | None:
    """Return a lease."""
    found = load_leases(connection, [lease_id])
    return found[0] if found else None


def leases(connection: Connection, wanted: LeaseFilter) -> Sequence[LeaseState]:
    """Return leases, the youngest first."""
    query = select(schema.leases).order_by(_table.id.desc()).limit(page_of(wanted.limit))
    status = None if wanted.status is None else wanted.status.value
    for column, value in (
        (_table.agent, wanted.agent),
        (_table.status, status),
        (_table.secret, wanted.secret),
        (_table.backend, wanted.backend),
    ):
        if value is not None:
            query = query.where(column == value)
    if wanted.below is not None:
        query = query.where(has_text(_table.facts, fact_line(("task", wanted.below))))
    if wanted.before is not None:
        query = query.where(_table.id < wanted.before)
    return [read_lease(row) for row in connection.execute(query)]


def running(connection: Connection, after: str, limit: int) -> Sequence[LeaseState]:
    """Return leases that are opening, live or held, by id."""
    query = select(schema.leases).where(_running, _table.id > after).order_by(_table.id).limit(page_of(limit))
    return [read_lease(row) for row in connection.execute(query)]


def over(connection: Connection, now: float, limit: int) -> Sequence[LeaseState]:
    """Return live leases whose time is over."""
    ended = or_(_table.expires_at <= now, _table.ends_by <= now)
    query = select(schema.leases).where(_unsettled, _table.status == LeaseStatus.LIVE.value, ended)
    return [read_lease(row) for row in connection.execute(query.order_by(_table.ends_by).limit(page_of(limit)))]


def backends(connection: Connection, now: float) -> Sequence[str]:
    """Return the backends with leases that are to be revoked now."""
    return list(connection.scalars(select(_table.backend).where(_due(now)).distinct().order_by(_table.backend)))


def work(connection: Connection, backend: str, now: float, limit: int, without: frozenset[str]) -> Sequence[LeaseState]:
    """Return the leases of a backend that are to be revoked now, but for some."""
    query = select(schema.leases).where(_due(now), _table.backend == backend, _table.id.not_in(without))
    ordered = query.order_by(_table.next_attempt_at, _table.id).limit(page_of(limit))
    return [read_lease(row) for row in connection.execute(ordered)]


def _due(now: float) -> ColumnElement[bool]:
    return and_(_unsettled, _table.status == LeaseStatus.RETRYING.value, _table.next_attempt_at <= now, ~_table.held)


def outcomes(connection: Connection, rule: int) -> Mapping[LeaseStatus, int]:
    """Return how many of the leases that a rule ended are in each state."""
    query = select(_table.status, func.count()).where(_table.rule == rule).group_by(_table.status)
    return {LeaseStatus(status): count for status, count in connection.execute(query)}


def counts(connection: Connection) -> Mapping[tuple[str, LeaseStatus], int]:
    """Return how many leases there are by backend and state."""
    query = select(_table.backend, _table.status, func.count()).group_by(_table.backend, _table.status)
    return {(backend, LeaseStatus(status)): count for backend, status, count in connection.execute(query)}


def oldest_end(connection: Connection) -> float | None:
    """Return since when the lease has waited that waits the longest to be confirmed dead."""
    ended: float | None = connection.scalar(select(func.min(_table.ended_at)).where(_unsettled))
    return ended


def hits(connection: Connection, selector: Selector, before: int | None) -> LeaseHits:
    """Count the leases that a selector covers and that run, together with those that rule ``before`` has ended."""
    covered: list[ColumnElement[bool]] = (
        [true()] if selector.everything else [has_text(_table.facts, fact_line(fact)) for fact in selector.facts()]
    )
    alive = _running
    if before is not None:
        alive = and_(or_(_running, _table.rule == before), _table.epoch < before)
    last = case((_table.revocable, None), else_=func.coalesce(_table.good_until, 0))
    query = select(
        func.count().filter(_table.revocable),
        func.count().filter(~_table.revocable),
        func.max(last),
        func.min(last),
    ).where(alive, *covered)
    revocable, expires_only, latest, earliest = connection.execute(query).one()
    return LeaseHits(revocable, expires_only, latest if earliest else None)
