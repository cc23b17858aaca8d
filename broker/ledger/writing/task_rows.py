"""How tasks, their budgets and their actions are stored in rows, and read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, and_, select

from broker.core.action import Action, ActionState
from broker.core.task import LEASES, TOKENS, Balance, Budget, Task, TaskState
from broker.ledger import schema
from broker.ledger.rows import read_object

T = TypeVar("T")

CHUNK: Final = 500
"""How many ids one statement names at most."""

_ACTION_FIELDS: Final = tuple(field.name for field in fields(Action))
_encode: Final = msgspec.json.Encoder(order="sorted").encode


def path_text(path: Sequence[str]) -> str:
    """Return the stored form of a path: each id with a slash behind it."""
    return "".join(f"{task}/" for task in path)


def below(task: Task) -> ColumnElement[bool]:
    """Return the condition that a row is a descendant of ``task``; the index on paths answers it."""
    start = path_text((*task.path, task.id))
    # "0" is what follows "/" in ASCII, and no task id has a slash in it.
    return and_(schema.tasks.c.path >= start, schema.tasks.c.path < start[:-1] + "0")


def task_row(state: TaskState) -> dict[str, Any]:
    """Return the row of a task."""
    task, budget = state.task, state.task.budget
    ceiling = {
        "scopes": None if task.scopes is None else {name: list(scopes) for name, scopes in task.scopes.items()},
        "secrets": None if task.secrets is None else list(task.secrets),
        "budget": {TOKENS: budget.tokens, LEASES: budget.leases, "actions": budget.actions},
    }
    return {
        "id": task.id,
        "path": path_text(task.path),
        "owner": task.owner,
        "role": task.role,
        "purpose": task.purpose,
        "opened_at": task.opened_at,
        "deadline": task.deadline,
        "ceiling": _encode(ceiling).decode(),
        "labels": _encode(dict(task.labels)).decode(),
        "idle_timeout": task.idle_timeout,
        "flagged": task.flagged,
        "implicit": task.implicit,
        "heartbeat_at": state.heartbeat_at,
        "holds_until": state.holds_until,
        "closed_at": state.closed_at,
        "closed_because": state.closed_because,
    }


def read_task(row: Row[Any], balances: Mapping[str, Balance]) -> TaskState:
    """Read a task from its row and its balances."""
    ceiling = read_object(row.ceiling)
    scopes, secrets, budget = ceiling["scopes"], ceiling["secrets"], ceiling["budget"]
    task = Task(
        id=row.id,
        owner=row.owner,
        role=row.role,
        purpose=row.purpose,
        opened_at=row.opened_at,
        deadline=row.deadline,
        scopes=None if scopes is None else {name: tuple(listed) for name, listed in scopes.items()},
        secrets=None if secrets is None else tuple(secrets),
        budget=Budget(tokens=budget[TOKENS], leases=budget[LEASES], actions=budget["actions"]),
        labels=read_object(row.labels),
        path=tuple(row.path.split("/")[:-1]),
        idle_timeout=row.idle_timeout,
        flagged=row.flagged,
        implicit=row.implicit,
    )
    return TaskState(
        task=task,
        heartbeat_at=row.heartbeat_at,
        balances=balances,
        holds_until=row.holds_until,
        closed_at=row.closed_at,
        closed_because=row.closed_because,
    )


def read_tasks(connection: Connection, rows: Sequence[Row[Any]]) -> list[TaskState]:
    """Read tasks from their rows, with their balances, in the same order."""
    balances: dict[str, dict[str, Balance]] = {row.id: {} for row in rows}
    table = schema.budgets.c
    for ids in chunks(list(balances)):
        for row in connection.execute(select(schema.budgets).where(table.task.in_(ids))):
            balances[row.task][row.resource] = Balance(limit=row.limit, used=row.used, reserved=row.reserved)
    return [read_task(row, balances[row.id]) for row in rows]


def load_tasks(connection: Connection, ids: Sequence[str]) -> list[TaskState]:
    """Return the tasks of these ids, as far as they are stored."""
    rows = [
        row
        for some in chunks(ids)
        for row in connection.execute(select(schema.tasks).where(schema.tasks.c.id.in_(some)))
    ]
    return read_tasks(connection, rows)


def action_row(action: Action) -> dict[str, Any]:
    """Return the row of a reservation that was just made."""
    return {**asdict(action), "outcome": None, "result": None, "settled_at": None}


def read_action(row: Row[Any]) -> ActionState:
    """Read a reservation from its row."""
    action = Action(**{name: getattr(row, name) for name in _ACTION_FIELDS})
    return ActionState(action=action, outcome=row.outcome, result=row.result, settled_at=row.settled_at)


def chunks(ids: Sequence[T]) -> list[Sequence[T]]:
    """Cut a list of ids or places into pieces that one statement can name."""
    return [ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)]
