"""``/v1/tasks``: opening, showing, keeping alive and closing the units of work that credentials belong to."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from aiohttp import web

from broker.core.claims import AccessClaims
from broker.core.errors import BrokerError, Code, Malformed
from broker.core.lifetime import parse_duration
from broker.core.task import ACTION, LEASES, TOKENS, Balance, Budget, TaskState
from broker.core.task_opening import MAX_COUNT, TaskWish
from broker.http.answer import answer, timestamp
from broker.http.bodies import read_json
from broker.http.call import Call
from broker.http.idempotency import idempotency_key
from broker.http.paging import cursor_at, cursor_id_of, limit_of, link_to, only, query_value
from broker.http.presence import propagation_seen
from broker.http.revocations import hits_found
from broker.tasks import Closed, TaskFilter

CLOSED_BY_CALL = "closed"
"""The reason that is recorded when none is given."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]


class BudgetWish(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How much a task is to have; what is left out is left to the role."""

    tokens: _Count | None = None
    leases: _Count | None = None
    actions: dict[str, _Count] | None = None


class TaskBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What ``POST /v1/tasks`` takes. Times are seconds, or durations such as ``15m``."""

    purpose: str
    ttl: int | str | None = None
    scopes: dict[str, list[str]] | None = None
    secrets: list[str] | None = None
    budget: BudgetWish | None = None
    labels: dict[str, str] = {}
    idle_timeout: int | str | None = None
    parent: str | None = None


async def create(call: Call) -> web.Response:
    """``POST /v1/tasks``: open a task under the role of the caller's token."""
    body = await read_json(call, TaskBody)
    budget = body.budget or BudgetWish()
    wish = TaskWish(
        purpose=body.purpose,
        ttl=_seconds("ttl", body.ttl),
        scopes=body.scopes,
        secrets=body.secrets,
        budget=Budget(tokens=budget.tokens, leases=budget.leases, actions=budget.actions),
        labels=body.labels,
        idle_timeout=_seconds("idle_timeout", body.idle_timeout),
        parent=body.parent,
    )
    state = await call.services.tasks.open(wish, _claims(call), call.caller, idempotency_key(call.request))
    return answer(_described(state, call), HTTPStatus.CREATED, location=f"/v1/tasks/{state.task.id}")


async def index(call: Call) -> web.Response:
    """``GET /v1/tasks``: one's own tasks, or those below one of them; all of them for operators. The youngest first."""
    only(call.request, "limit", "cursor", "owner", "parent", "open")
    limit = limit_of(call.request)
    wanted = TaskFilter(
        owner=query_value(call.request, "owner"),
        parent=query_value(call.request, "parent"),
        only_open=_flag(call.request, "open"),
        before=cursor_id_of(call.request),
        limit=limit,
    )
    found = await call.services.tasks.index(wanted, _claims(call))
    cursor = cursor_at(found[-1].task.id) if len(found) == limit else None
    body = {"tasks": [_described(state, call) for state in found], "next": cursor}
    return answer(body, link=link_to(call.request, cursor))


async def show(call: Call) -> web.Response:
    """``GET /v1/tasks/{id}``: one task, with what is left of its budget."""
    state, below = await call.services.tasks.show(call.path_value("id"), _claims(call))
    return answer({**_described(state, call), "tasks_below": below})


async def close(call: Call) -> web.Response:
    """``DELETE /v1/tasks/{id}``: end a task, all tasks below it, and every grant in them.

    200 when it is durable; 202 when the rule that ends the grants is in force but could not be written yet.
    """
    only(call.request, "reason")
    reason = query_value(call.request, "reason") or CLOSED_BY_CALL
    closed = await call.services.tasks.close(call.path_value("id"), _claims(call), reason, call.caller)
    is_durable = closed.ended is None or closed.ended.durable
    return answer(await _closed(closed, call), HTTPStatus.OK if is_durable else HTTPStatus.ACCEPTED)


async def heartbeat(call: Call) -> web.Response:
    """``POST /v1/tasks/{id}/heartbeat``: say that work on a task goes on, before its idle time-out is over."""
    state = await call.services.tasks.heartbeat(call.path_value("id"), _claims(call), call.caller)
    return answer(_described(state, call))


def _claims(call: Call) -> AccessClaims:
    """Return the claims of the caller's token: routes that name a scope admit nobody without one."""
    claims = call.operator.claims
    if claims is None:
        raise BrokerError(Code.INTERNAL, "internal error")
    return claims


def _seconds(name: str, asked: int | str | None) -> int | None:
    return parse_duration(asked, name) if isinstance(asked, str) else asked


def _flag(request: web.Request, name: str) -> bool:
    text = query_value(request, name)
    if text not in {None, "true", "false"}:
        raise Malformed(f"{name}: must be true or false")
    return text == "true"


async def _closed(closed: Closed, call: Call) -> dict[str, Any]:
    ended = closed.ended
    rule = None
    if ended is not None:
        rule = {
            "rule": ended.rule.number,
            "id": ended.rule.id,
            "hits": hits_found(ended.hits),
            "counting": ended.durable and ended.hits is None,
            "durable": ended.durable,
            "propagation": propagation_seen(await call.services.propagations.of(ended.rule)),
        }
    return {**_described(closed.state, call), "revocation": rule}


def _described(state: TaskState, call: Call) -> dict[str, Any]:
    task, ended = state.task, state.ended(call.services.clock.now())
    return {
        "id": task.id,
        "state": "open" if ended is None else ended,
        "purpose": task.purpose,
        "flagged": task.flagged,
        "owner": task.owner,
        "role": task.role,
        "parent": task.path[-1] if task.path else None,
        "path": task.path,
        "opened_at": timestamp(task.opened_at),
        "deadline": timestamp(task.deadline),
        "idle_timeout": task.idle_timeout,
        "heard_at": timestamp(state.heartbeat_at),
        "closed_at": None if state.closed_at is None else timestamp(state.closed_at),
        "scopes": task.scopes,
        "secrets": task.secrets,
        "budget": _budget(state),
        "labels": task.labels,
        "implicit": task.implicit,
    }


def _budget(state: TaskState) -> dict[str, Any]:
    """Return what is limited: None for what is not; for actions, what is not listed may not be done at all."""
    described = {resource: _balance(balance) for resource, balance in state.balances.items()}
    actions = {name.removeprefix(ACTION): entry for name, entry in described.items() if name.startswith(ACTION)}
    is_limited = state.task.budget.actions is not None
    return {
        TOKENS: described.get(TOKENS),
        LEASES: described.get(LEASES),
        "actions": actions if is_limited or actions else None,
    }


def _balance(balance: Balance) -> dict[str, int]:
    return {"limit": balance.limit, "used": balance.used, "reserved": balance.reserved, "left": balance.left}
