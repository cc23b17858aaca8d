"""``/v1/approvals``: what waits for people, what they need to know to decide, and their decisions."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from aiohttp import web

from broker.approvals import Shown
from broker.core.approval import PENDING, ApprovalState, Vote
from broker.core.errors import Malformed
from broker.core.task import looks_like_instructions
from broker.http.answer import answer, timestamp
from broker.http.bodies import read_json
from broker.http.call import Call
from broker.http.paging import cursor_at, cursor_id_of, limit_of, link_to, only, query_value, whole_number
from broker.ports import Record

MAX_WAIT: Final = 25
"""Seconds that a list may wait for something new."""

_TOLD: Final = ("kind", "at", "ref", "audience", "scope", "task", "code", "reason", "action", "outcome")


class DecisionBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What ``POST /v1/approvals/{id}`` takes: ``approve``, ``deny`` or ``review``, and why."""

    decision: str
    reason: str


async def index(call: Call) -> web.Response:
    """``GET /v1/approvals``: requests in a state, the youngest first; with ``wait``, new ones as soon as they come."""
    only(call.request, "state", "limit", "cursor", "wait", "after")
    limit, before = limit_of(call.request), cursor_id_of(call.request)
    wait, after = query_value(call.request, "wait"), query_value(call.request, "after")
    seconds = 0 if wait is None else whole_number("wait", wait)
    if seconds > MAX_WAIT:
        raise Malformed(f"wait: must be 0 to {MAX_WAIT} seconds")
    if (seconds > 0 and before is not None) or (after is not None and not seconds):
        raise Malformed("wait goes with after, a cursor with neither")
    wanted = query_value(call.request, "state") or PENDING
    found = await call.services.approvals.list(
        wanted, before=after or before, limit=limit, wait=seconds, by=call.operator.agent.id
    )
    now = call.services.clock.now()
    cursor = cursor_at(found[-1].request.id) if len(found) == limit and not seconds else None
    body = {"approvals": [described(state, now) for state in found], "next": cursor}
    return answer(body, link=link_to(call.request, cursor))


async def show(call: Call) -> web.Response:
    """``GET /v1/approvals/{id}``: one request, the task it is for, and what the agent did before."""
    shown = await call.services.approvals.show(call.path_value("id"))
    now = call.services.clock.now()
    return answer({**described(shown.state, now), **_context(shown)})


async def decide(call: Call) -> web.Response:
    """``POST /v1/approvals/{id}``: one approver's decision, durable by the time of the answer."""
    body = await read_json(call, DecisionBody)
    state = await call.services.approvals.decide(
        call.path_value("id"), body.decision, body.reason, call.operator, call.caller
    )
    return answer(described(state, call.services.clock.now()))


def described(state: ApprovalState, now: float) -> dict[str, Any]:
    """Return a request as JSON. What comes from outside is data: ``flagged`` names what reads like instructions."""
    request = state.request
    outside = {"purpose": request.purpose, "reason": request.reason}
    return {
        "id": request.id,
        "kind": request.kind,
        "state": state.state(now),
        "agent": request.agent,
        "issuer": request.issuer,
        "role": request.role,
        "tier": request.tier,
        "asked": dict(request.asked),
        "digest": request.digest,
        "task": request.task,
        "task_owner": request.task_owner,
        "purpose": request.purpose,
        "reason": request.reason,
        "flagged": [name for name, text in outside.items() if text is not None and looks_like_instructions(text)],
        "chain": list(request.chain),
        "lifts": None if request.lifts is None else {"resource": request.lifts[0], "count": request.lifts[1]},
        "approvers": request.approvers,
        "quorum": request.quorum,
        "votes": [_vote(vote) for vote in state.votes],
        "requested_at": timestamp(request.requested_at),
        "expires_at": timestamp(request.expires_at),
        "decided_at": None if state.decided_at is None else timestamp(state.decided_at),
        "used_at": None if state.used_at is None else timestamp(state.used_at),
    }


def _vote(vote: Vote) -> dict[str, Any]:
    return {
        "approver": vote.approver,
        "role": vote.role,
        "approve": vote.approve,
        "reason": vote.reason,
        "at": timestamp(vote.at),
    }


def _context(shown: Shown) -> dict[str, Any]:
    task = shown.task
    return {
        "task_state": None
        if task is None
        else {
            "purpose": task.task.purpose,
            "flagged": task.task.flagged,
            "labels": dict(task.task.labels),
            "path": list(task.task.path),
            "deadline": timestamp(task.task.deadline),
            "left": {resource: balance.left for resource, balance in task.balances.items()},
        },
        "actions": [
            {
                "id": known.action.id,
                "action": known.action.name,
                "count": known.action.count,
                "target": known.action.target,
                "outcome": known.outcome,
                "at": timestamp(known.action.reserved_at),
            }
            for known in shown.actions
        ],
        "before": [_before(record) for record in shown.entries],
    }


def _before(record: Record) -> dict[str, Any]:
    return {"seq": record.seq, **{name: record.members[name] for name in _TOLD if name in record.members}}
