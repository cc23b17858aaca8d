"""``/v1/leases``: agents take, renew and give back secrets; operators see what became of them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import msgspec
from aiohttp import web

from broker.core.errors import Malformed
from broker.core.lease import LeaseState, LeaseStatus
from broker.core.lifetime import parse_duration
from broker.http.answer import answer, nothing, timestamp
from broker.http.bodies import read_json
from broker.http.call import Call
from broker.http.idempotency import needed_idempotency_key
from broker.http.paging import cursor_at, cursor_id_of, limit_of, link_to, only, query_value
from broker.leasing import Leased, LeaseWish
from broker.ports import LeaseFilter

MAX_WAIT: Final = 25
"""Seconds that a caller can wait for the backend's word: less than a request may take."""


class LeaseBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What ``POST /v1/leases`` takes. ``ttl`` is seconds, or a duration such as ``5m``."""

    secret: str
    task: str | None = None
    ttl: int | str | None = None
    encrypt_to: dict[str, Any] | None = None
    auth_req_id: str | None = None
    break_glass: str | None = None


class RenewalBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What ``POST /v1/leases/{id}/renew`` takes."""

    ttl: int | str | None = None


class PrefixBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What ``POST /v1/leases/revoke-prefix`` takes: the name of a backend, and a path of it."""

    backend: str
    prefix: str
    reason: str


class ReasonBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What operators' orders about leases take."""

    reason: str


async def create(call: Call) -> web.Response:
    """``POST /v1/leases``: take a lease. The answer is the only one that ever has the secret in it."""
    body = await read_json(call, LeaseBody)
    wish = LeaseWish(
        secret=body.secret,
        idempotency_key=needed_idempotency_key(call.request),
        task=body.task,
        ttl=_seconds(body.ttl),
        encrypt_to=body.encrypt_to,
        auth_req_id=body.auth_req_id,
        break_glass=body.break_glass,
    )
    leased = await call.services.leasing.take(wish, call.operator, call.caller)
    status = HTTPStatus.OK if leased.data is None else HTTPStatus.CREATED
    return answer(_handed_out(leased, wish, call), status, location=f"/v1/leases/{leased.state.lease.id}")


async def renew(call: Call) -> web.Response:
    """``POST /v1/leases/{id}/renew``: let a lease go on, never past its task, its tier and its backend."""
    body = await read_json(call, RenewalBody)
    state = await call.services.holdings.renew(call.path_value("id"), _seconds(body.ttl), call.operator, call.caller)
    return answer(_term(state, call))


async def give_back(call: Call) -> web.Response:
    """``DELETE /v1/leases/{id}``: end a lease; ``wait`` is how many seconds to wait for the backend's word."""
    only(call.request, "wait")
    wait = _wait(query_value(call.request, "wait"))
    state = await call.services.holdings.give_back(call.path_value("id"), call.operator, call.caller, wait=wait)
    return answer(described(state))


async def index(call: Call) -> web.Response:
    """``GET /v1/leases``: one's own leases, or anybody's for operators; the youngest first."""
    only(call.request, "agent", "task", "state", "secret", "backend", "limit", "cursor")
    limit = limit_of(call.request)
    wanted = LeaseFilter(
        agent=query_value(call.request, "agent"),
        below=query_value(call.request, "task"),
        status=_status(query_value(call.request, "state")),
        secret=query_value(call.request, "secret"),
        backend=query_value(call.request, "backend"),
        before=cursor_id_of(call.request),
        limit=limit,
    )
    found = await call.services.holdings.index(wanted, call.operator)
    cursor = cursor_at(found[-1].lease.id) if len(found) == limit else None
    body = {"leases": [described(state) for state in found], "next": cursor}
    return answer(body, link=link_to(call.request, cursor))


async def show(call: Call) -> web.Response:
    """``GET /v1/leases/{id}``: one lease, with what became of it."""
    return answer(described(await call.services.holdings.show(call.path_value("id"), call.operator)))


async def retry(call: Call) -> web.Response:
    """``POST /v1/leases/{id}/retry``: try again to revoke a lease, from the beginning."""
    return answer(described(await call.services.oversight.retry(call.path_value("id"), call.operator, call.caller)))


async def abandon(call: Call) -> web.Response:
    """``POST /v1/leases/{id}/abandon``: give up revoking a lease; somebody has seen to it otherwise."""
    body = await read_json(call, ReasonBody)
    state = await call.services.oversight.abandon(call.path_value("id"), body.reason, call.operator, call.caller)
    return answer(described(state))


async def confirm(call: Call) -> web.Response:
    """``POST /v1/leases/confirm``: let leases be revoked that were held because an older ledger was restored."""
    body = await read_json(call, ReasonBody)
    await call.services.oversight.confirm(body.reason, call.operator, call.caller)
    return nothing()


async def revoke_prefix(call: Call) -> web.Response:
    """``POST /v1/leases/revoke-prefix``: end everything below a path of a backend, whoever took it."""
    body = await read_json(call, PrefixBody)
    ended = await call.services.oversight.revoke_prefix(
        body.backend, body.prefix, body.reason, call.operator, call.caller
    )
    return answer({"backend": body.backend, "prefix": body.prefix, "leases": ended})


def described(state: LeaseState) -> dict[str, Any]:
    """Return a lease as JSON."""
    lease = state.lease
    return {
        "lease_id": lease.id,
        "secret": lease.secret,
        "backend": lease.backend,
        "agent": lease.agent,
        "on_behalf_of": lease.on_behalf_of,
        "role": lease.role,
        "task": lease.task,
        "tier": lease.tier,
        "state": state.status.value,
        "taken_at": timestamp(lease.taken_at),
        "expires_at": _maybe(state.expires_at),
        "ends_by": timestamp(lease.ends_by),
        "good_until": _maybe(state.good_until),
        "renewable": state.renewable,
        "revocable": state.revocable,
        "held": state.held,
        "because": state.because,
        "rule": state.rule,
        "attempts": state.attempts,
        "next_attempt_at": _maybe(state.next_attempt_at),
        "last_error": state.last_error,
        "ended_at": _maybe(state.ended_at),
        "settled_at": _maybe(state.settled_at),
        "note": state.note,
    }


def _handed_out(leased: Leased, wish: LeaseWish, call: Call) -> dict[str, Any]:
    jwe = call.services.leasing.sealed_to(leased, wish)
    state = leased.state
    told = {
        "secret": state.lease.secret,
        "task": state.lease.task,
        "state": state.status.value,
        "revocable": state.revocable,
        **_term(state, call),
    }
    if jwe is not None:
        return {**told, "jwe": jwe}
    return {**told, "data": None if leased.data is None else msgspec.Raw(leased.data.reveal())}


def _term(state: LeaseState, call: Call) -> dict[str, Any]:
    """Return how long a lease lasts, in Vault's words."""
    until = state.expires_at
    left = None if until is None else max(0, until - int(call.services.clock.now()))
    return {
        "lease_id": state.lease.id,
        "lease_duration": left,
        "expires_at": _maybe(until),
        "renewable": state.renewable,
    }


def _maybe(seconds: float | None) -> str | None:
    return None if seconds is None else timestamp(seconds)


def _seconds(value: int | str | None) -> int | None:
    return parse_duration(value, "ttl") if isinstance(value, str) else value


def _status(text: str | None) -> LeaseStatus | None:
    if text is None:
        return None
    try:
        return LeaseStatus(text)
    except ValueError as error:
        raise Malformed(f"state: they are {', '.join(status.value for status in LeaseStatus)}") from error


def _wait(text: str | None) -> int:
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and int(text[:3]) <= MAX_WAIT):
        raise Malformed(f"wait: must be 0 to {MAX_WAIT} seconds")
    return int(text)
