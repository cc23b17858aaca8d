"""``/v1/ledger/anchors``: where checkpoints are kept beyond the broker's reach, and what is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from broker.anchoring import AnchorState, Known
from broker.core.errors import AnchorFailed, Malformed
from broker.http.answer import answer, timestamp
from broker.http.call import Call
from broker.http.paging import only, query_value
from broker.ports import SignedHead


async def index(call: Call) -> web.Response:
    """``GET /v1/ledger/anchors``: how each anchor is doing; with ``check=true`` each is asked what it holds now."""
    only(call.request, "check")
    wanted = query_value(call.request, "check")
    if wanted not in {None, "true"}:
        raise Malformed("check: true, or nothing")
    checked = await call.services.anchoring.check() if wanted else {}
    now = call.services.clock.now()
    states = [_described(state, checked, now) for state in call.services.anchoring.states()]
    return answer({"anchors": states})


def _described(state: AnchorState, checked: Mapping[str, Known], now: float) -> dict[str, Any]:
    placement, failure = state.placement, state.failure
    described: dict[str, Any] = {
        "name": state.name,
        "kind": state.kind,
        "size": None if placement is None else placement.size,
        "root": None if placement is None else placement.root.hex(),
        "placed_at": None if placement is None else timestamp(placement.at),
        "age_seconds": None if placement is None else max(0, int(now - placement.at)),
        "receipt": None if placement is None else placement.placed.receipt,
        "lag_seconds": round(state.lag_seconds, 3),
        "lag_entries": state.lag_entries,
        "alarm": state.alarm,
        "failure": None if failure is None else _failure(failure),
        "failed_at": None if state.failed_at is None else timestamp(state.failed_at),
    }
    return described | ({"check": _check(checked[state.name])} if state.name in checked else {})


def _check(known: Known) -> dict[str, Any]:
    """Return what an anchor holds, if it is a part of this ledger's history."""
    match known:
        case SignedHead(size, root, note):
            return {"verdict": "agrees", "size": size, "root": root.hex(), "checkpoint": note}
        case AnchorFailed():
            return {"verdict": "failed", **_failure(known)}
        case None:
            return {"verdict": "silent"}


def _failure(failure: AnchorFailed) -> dict[str, str]:
    return {"code": failure.code.value, "reason": failure.public}
