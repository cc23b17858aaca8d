"""``/v1/agents`` and ``/v1/enrollments``: agents that authenticate with their own keys."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import msgspec
from aiohttp import web

from broker.core.change import RegisteredAgent
from broker.core.errors import Malformed
from broker.http.answer import answer, nothing, timestamp
from broker.http.bodies import read_json
from broker.http.call import Call

MAX_CODE: Final = 256
"""The longest text that is looked up as an enrolment code."""


class AgentBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What ``POST /v1/agents`` takes: a name and a public key (RFC 7517)."""

    name: str
    jwk: dict[str, Any]


class InvitationBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What ``POST /v1/enrollments`` takes."""

    name: str


class RedemptionBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What ``POST /v1/enrollments/redeem`` takes: the code, the public key, and a proof that the key is held."""

    code: str
    jwk: dict[str, Any]
    proof: str


async def index(call: Call) -> web.Response:
    """``GET /v1/agents``: all registered agents by name."""
    agents = await call.services.registration.agents()
    return answer({"agents": [_described(agent) for agent in agents]})


async def register(call: Call) -> web.Response:
    """``POST /v1/agents``: register an agent by its public key."""
    body = await read_json(call, AgentBody)
    by = call.operator.agent.id
    agent = await call.services.registration.register(body.name, body.jwk, by=by, caller=call.caller)
    return _created(agent)


async def remove(call: Call) -> web.Response:
    """``DELETE /v1/agents/{name}``: forget an agent; its tokens live on until they are revoked or expire."""
    name = call.path_value("name")
    await call.services.registration.remove(name, by=call.operator.agent.id, caller=call.caller)
    return nothing()


async def invite(call: Call) -> web.Response:
    """``POST /v1/enrollments``: make a one-time code with which an agent registers its own key."""
    body = await read_json(call, InvitationBody)
    by = call.operator.agent.id
    enrollment = await call.services.registration.invite(body.name, by=by, caller=call.caller)
    invitation = {"name": enrollment.name, "code": enrollment.code, "expires_at": timestamp(enrollment.expires_at)}
    return answer(invitation, HTTPStatus.CREATED)


async def redeem(call: Call) -> web.Response:
    """``POST /v1/enrollments/redeem``: register the key of whoever has a code and proves to hold the key."""
    body = await read_json(call, RedemptionBody)
    if not 0 < len(body.code) <= MAX_CODE:
        raise Malformed(f"code: must be 1 to {MAX_CODE} characters")
    agent = await call.services.registration.redeem(
        body.code, body.jwk, proof=body.proof, audience=call.site.issuer, caller=call.caller
    )
    call.agent = agent.name
    return _created(agent)


def _created(agent: RegisteredAgent) -> web.Response:
    return answer(_described(agent), HTTPStatus.CREATED, location=f"/v1/agents/{quote(agent.name)}")


def _described(agent: RegisteredAgent) -> dict[str, Any]:
    return {
        "name": agent.name,
        "key": agent.key,
        "jwk": dict(agent.jwk),
        "created_at": timestamp(agent.created_at),
        "created_by": agent.created_by,
    }
