"""``/v1/revocations/acks``, ``/v1/verifiers`` and ``/v1/replicas``: who is there, and who has applied which rule."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from broker.core.errors import Malformed
from broker.core.propagation import Propagation, Replica, Unknown, Verifier
from broker.http.answer import answer, nothing, timestamp
from broker.http.bodies import read_json
from broker.http.call import Call
from broker.http.paging import only
from broker.ports import Acknowledged, Left


class AckBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What ``POST /v1/revocations/acks`` takes: an epoch that was applied, with its mark; or that a verifier leaves."""

    verifier: str
    epoch: int | None = None
    mark: str | None = None
    max_age: float | None = None
    leaving: bool = False


async def acknowledge(call: Call) -> web.Response:
    """``POST /v1/revocations/acks``: a verifier says which epoch it has applied, or that it has ended."""
    body = await read_json(call, AckBody)
    agent = call.operator.agent.id
    said = (body.epoch, body.mark, body.max_age)
    if body.leaving:
        if said != (None, None, None):
            raise Malformed("leaving: goes with verifier alone")
        call.services.acknowledging.leave(Left(agent, body.verifier))
        return nothing()
    if body.epoch is None or body.mark is None or body.max_age is None:
        raise Malformed("epoch, mark, max_age: give all three, or leaving")
    told = Acknowledged(agent, body.verifier, body.epoch, body.max_age)
    await call.services.acknowledging.take(told, body.mark)
    return nothing()


async def verifiers(call: Call) -> web.Response:
    """``GET /v1/verifiers``: everybody who acknowledges rules, with how far behind they are."""
    only(call.request)
    present, epoch = await call.services.propagations.present(), call.services.revocations.rules.epoch
    now = call.services.clock.now()
    return answer({"epoch": epoch, "verifiers": [_verifier(each, epoch, now) for each in present.verifiers]})


async def replicas(call: Call) -> web.Response:
    """``GET /v1/replicas``: the broker's own processes, with how far behind they are."""
    only(call.request)
    present, epoch = await call.services.propagations.present(), call.services.revocations.rules.epoch
    now = call.services.clock.now()
    return answer({"epoch": epoch, "replicas": [_replica(each, epoch, now) for each in present.replicas]})


def propagation_seen(seen: Propagation | Unknown) -> dict[str, Any]:
    """Return how far a rule has got; all that is not known is null, and then there is a reason."""
    if isinstance(seen, Unknown):
        unknown = dict.fromkeys(("replicas", "replicas_applied", "verifiers", "verifiers_applied", "slowest_ms"))
        return {"applied": False, **unknown, "waiting_for": [], "refusing": [], "reason": seen.reason}
    return {
        "applied": seen.applied,
        "replicas": seen.replicas,
        "replicas_applied": seen.replicas_applied,
        "verifiers": seen.verifiers,
        "verifiers_applied": seen.verifiers_applied,
        "slowest_ms": None if seen.slowest is None else round(seen.slowest * 1000),
        "waiting_for": seen.waiting_for,
        "refusing": seen.refusing,
        "reason": None,
    }


def _verifier(verifier: Verifier, epoch: int, now: float) -> dict[str, Any]:
    return {
        "agent": verifier.agent,
        "verifier": verifier.name,
        "max_age": verifier.max_age,
        **_standing(verifier, epoch, now),
    }


def _replica(replica: Replica, epoch: int, now: float) -> dict[str, Any]:
    return {
        "id": replica.id,
        "host": replica.host,
        "process": replica.pid,
        "version": replica.version,
        "policy": replica.policy,
        "max_staleness": replica.max_staleness,
        **_standing(replica, epoch, now),
    }


def _standing(each: Verifier | Replica, epoch: int, now: float) -> dict[str, Any]:
    return {
        "epoch": each.epoch,
        "lag": max(0, epoch - each.epoch),
        "silent_seconds": round(each.silent, 3),
        "since": timestamp(now - each.known),
    }
