"""``/v1/ledger/erasures``: forgetting what is personal in entries."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web

from broker.core.entry import MAX_INT
from broker.core.erasing import Forgetting
from broker.core.inquiry import parse_moment
from broker.erasure import ErasureOrder
from broker.http.answer import answer
from broker.http.bodies import read_json
from broker.http.call import Call


class ErasureBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which entries are meant, and why. ``before`` is a time, or a duration before now, as in queries.

    ``after`` is the ``next`` of the answer that this call goes on from.
    """

    reason: str
    ref: str | None = None
    task: str | None = None
    agent: str | None = None
    subject: str | None = None
    before: str | None = None
    preview: bool = False
    after: Annotated[int, msgspec.Meta(ge=-1, le=MAX_INT)] = -1


async def create(call: Call) -> web.Response:
    """``POST /v1/ledger/erasures``: erase, or count what would be erased. Repeating it is harmless."""
    body = await read_json(call, ErasureBody)
    forgetting = Forgetting(
        ref=body.ref,
        task=body.task,
        agent=body.agent,
        subject=body.subject,
        before=parse_moment("before", body.before, call.services.clock.now()),
    )
    order = ErasureOrder(forgetting=forgetting, reason=body.reason, by=call.operator.agent.id, after=body.after)
    erasure = call.services.erasure
    outcome = await (erasure.preview(order) if body.preview else erasure.erase(order, call.caller))
    return answer(
        {
            "erasure": None if body.preview else outcome.erasure,
            "entries": outcome.entries,
            "in_use": outcome.in_use,
            "next": outcome.last if outcome.more else None,
            "forgotten": outcome.forgotten,
        }
    )
