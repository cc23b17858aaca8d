"""``/v1/keys``: the broker's signing keys, and rotating them."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from broker.core.change import StoredKey
from broker.core.errors import Malformed
from broker.core.selector import Selector
from broker.http.answer import answer, timestamp
from broker.http.bodies import read_json
from broker.http.call import Call
from broker.http.revocations import described
from broker.revocation import Order


class RotationBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What ``POST /v1/keys/rotate`` takes. An emergency needs a reason."""

    emergency: bool = False
    reason: str | None = None


async def index(call: Call) -> web.Response:
    """``GET /v1/keys``: every key of the ring with its times, revoked ones included; public parts only."""
    return answer({"keys": [_described(key) for key in await call.services.key_rotation.keys()]})


async def rotate(call: Call) -> web.Response:
    """``POST /v1/keys/rotate``: new keys in good time; or at once, and then all tokens of the old ones die.

    In an emergency the answer lists one revocation per compromised key.
    """
    body = await read_json(call, RotationBody)
    by = call.operator.agent.id
    if not body.emergency:
        rotation = await call.services.key_rotation.rotate(by=by, caller=call.caller)
        return answer({"keys": [_described(key) for key in rotation.rows], "revocations": []})
    if body.reason is None:
        raise Malformed("reason: an emergency needs one")
    order = Order(selector=Selector(everything=True), reason=body.reason, by=by)
    order.check()  # before anything is done
    rotation = await call.services.key_rotation.replace(by=by, reason=body.reason, caller=call.caller)
    orders = [Order(selector=Selector(key=kid), reason=body.reason, by=by) for kid in rotation.compromised]
    outcomes = [await call.services.revocation.revoke(order, call.caller) for order in orders]
    revocations = [described(each, await call.services.propagations.of(each.rule)) for each in outcomes]
    return answer({"keys": [_described(key) for key in rotation.rows], "revocations": revocations})


def _described(key: StoredKey) -> dict[str, Any]:
    return {
        "kid": key.kid,
        "use": key.use,
        "alg": key.alg,
        "public_jwk": dict(key.public_jwk),
        "created_at": timestamp(key.created_at),
        "active_at": timestamp(key.active_at),
        "retires_at": None if key.retires_at is None else timestamp(key.retires_at),
        "revoked": key.revoked,
    }
