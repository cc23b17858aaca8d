"""Reading tasks, actions and approvals."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, exists, or_, select

from broker.core.action import ActionState
from broker.core.approval import PENDING, ApprovalState
from broker.core.task import TaskState
from broker.ledger import schema
from broker.ledger.rows import page_of
from broker.ledger.writing.approval_book import load_approvals, read_approvals
from broker.ledger.writing.task_rows import below, load_tasks, read_action, read_tasks


def task(connection: Connection, task_id: str) -> TaskState | None:
    """Return a stored task."""
    found = load_tasks(connection, [task_id])
    return found[0] if found else None


def tasks(
    connection: Connection,
    *,
    owner: str | None,
    below_task: str | None,
    open_at: float | None,
    before: str | None,
    limit: int,
) -> Sequence[TaskState]:
    """Return tasks, the youngest first."""
    table = schema.tasks.c
    query = select(schema.tasks).order_by(table.id.desc()).limit(page_of(limit))
    if owner is not None:
        query = query.where(table.owner == owner)
    if before is not None:
        query = query.where(table.id < before)
    if open_at is not None:
        alive = or_(table.idle_timeout.is_(None), table.heartbeat_at + table.idle_timeout > open_at)
        query = query.where(table.closed_at.is_(None), table.deadline > open_at, alive)
    if below_task is not None:
        root = task(connection, below_task)
        if root is None:
            return []
        query = query.where(below(root.task))
    return read_tasks(connection, connection.execute(query).all())


def due_tasks(connection: Connection, now: float, limit: int) -> Sequence[TaskState]:
    """Return tasks that are over but not closed, each the topmost of those that are."""
    mine, above = schema.tasks, schema.tasks.alias()
    over = and_(
        mine.c.closed_at.is_(None), or_(mine.c.deadline <= now, mine.c.heartbeat_at + mine.c.idle_timeout <= now)
    )
    over_above = and_(
        above.c.closed_at.is_(None), or_(above.c.deadline <= now, above.c.heartbeat_at + above.c.idle_timeout <= now)
    )
    start = above.c.path.concat(above.c.id).concat("/")
    is_below = and_(mine.c.path >= start, mine.c.path < above.c.path.concat(above.c.id).concat("0"))
    topmost = ~exists().where(over_above, is_below)
    query = select(mine).where(over, topmost).order_by(mine.c.deadline).limit(page_of(limit))
    return read_tasks(connection, connection.execute(query).all())


def action(connection: Connection, action_id: str) -> ActionState | None:
    """Return a reservation."""
    row = connection.execute(select(schema.actions).where(schema.actions.c.id == action_id)).one_or_none()
    return None if row is None else read_action(row)


def actions(
    connection: Connection, task_id: str | None, agent: str | None, before: str | None, limit: int
) -> Sequence[ActionState]:
    """Return reservations, the youngest first."""
    table = schema.actions.c
    query = select(schema.actions).order_by(table.id.desc()).limit(page_of(limit))
    if agent is not None:
        query = query.where(table.agent == agent)
    if before is not None:
        query = query.where(table.id < before)
    if task_id is not None:
        root = task(connection, task_id)
        tree = table.task == task_id
        if root is not None:
            tree = or_(tree, table.task.in_(select(schema.tasks.c.id).where(below(root.task))))
        query = query.where(tree)
    return [read_action(row) for row in connection.execute(query)]


def approval(connection: Connection, approval_id: str) -> ApprovalState | None:
    """Return a request for approval."""
    found = load_approvals(connection, [approval_id])
    return found[0] if found else None


def pending_approval(connection: Connection, digest: str, now: float) -> ApprovalState | None:
    """Return the request with this digest that waits for a decision."""
    found = load_approvals(connection, [], [digest])
    return next((state for state in found if state.state(now) == PENDING), None)


def approvals(connection: Connection, stored: str | None, before: str | None, limit: int) -> Sequence[ApprovalState]:
    """Return requests, the youngest first."""
    table = schema.approvals.c
    query = select(schema.approvals).order_by(table.id.desc()).limit(page_of(limit))
    if stored is not None:
        query = query.where(table.state == stored)
    if before is not None:
        query = query.where(table.id < before)
    return read_approvals(connection, connection.execute(query).all())
