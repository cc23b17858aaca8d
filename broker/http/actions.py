"""``/v1/actions``: resource servers reserve and settle what they do for agents; responders read the log of it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web

from broker.actions import Wish
from broker.core.action import ActionState
from broker.core.errors import Malformed
from broker.http.answer import answer, timestamp
from broker.http.bodies import read_json
from broker.http.call import Call
from broker.http.idempotency import idempotency_key
from broker.http.paging import cursor_at, cursor_id_of, limit_of, link_to, only, query_value


class ActionBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What ``POST /v1/actions`` takes. ``token`` is the access token that the agent presented."""

    token: str
    action: str
    count: int = 1
    scope: str | None = None
    target: str | None = None
    digest: str | None = None
    auth_req_id: str | None = None


class SettlementBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What ``POST /v1/actions/{id}/settle`` takes: ``done`` or ``not_done``, and what came of it in a few words."""

    outcome: str
    result: str | None = None


async def create(call: Call) -> web.Response:
    """``POST /v1/actions``: reserve an action against the budget of the task of a token."""
    body = await read_json(call, ActionBody)
    wish = Wish(
        token=body.token,
        action=body.action,
        count=body.count,
        scope=body.scope,
        target=body.target,
        digest=body.digest,
        auth_req_id=body.auth_req_id,
        idempotency_key=idempotency_key(call.request),
    )
    reserved = await call.services.actions.reserve(wish, call.operator, call.caller)
    made = {**described(reserved.state), "left": reserved.left}
    return answer(made, HTTPStatus.CREATED, location=f"/v1/actions/{reserved.state.action.id}")


async def settle(call: Call) -> web.Response:
    """``POST /v1/actions/{id}/settle``: say what came of a reservation."""
    body = await read_json(call, SettlementBody)
    state = await call.services.actions.settle(
        call.path_value("id"), body.outcome, body.result, call.operator, call.caller
    )
    return answer(described(state))


async def show(call: Call) -> web.Response:
    """``GET /v1/actions/{id}``: one reservation."""
    return answer(described(await call.services.actions.show(call.path_value("id"))))


async def index(call: Call) -> web.Response:
    """``GET /v1/actions``: the action log of a task with all below it, or of an agent, the youngest first."""
    only(call.request, "task", "agent", "limit", "cursor")
    task, agent = query_value(call.request, "task"), query_value(call.request, "agent")
    if task is not None and agent is not None:
        raise Malformed("task, agent: name one of them")
    limit = limit_of(call.request)
    found = await call.services.actions.list(task=task, agent=agent, before=cursor_id_of(call.request), limit=limit)
    cursor = cursor_at(found[-1].action.id) if len(found) == limit else None
    body = {"actions": [described(state) for state in found], "next": cursor}
    return answer(body, link=link_to(call.request, cursor))


def described(state: ActionState) -> dict[str, Any]:
    """Return a reservation as JSON."""
    action = state.action
    return {
        "action_id": action.id,
        "action": action.name,
        "count": action.count,
        "task": action.task,
        "token": action.token,
        "agent": action.agent,
        "audience": action.audience,
        "by": action.by,
        "target": action.target,
        "digest": action.digest,
        "reserved_at": timestamp(action.reserved_at),
        "settle_by": timestamp(action.settle_by),
        "outcome": state.outcome,
        "result": state.result,
        "settled_at": None if state.settled_at is None else timestamp(state.settled_at),
    }
