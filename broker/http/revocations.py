"""``/v1/revocations`` and ``/v1/blocks``: revoking, previewing, what is in force, and lifting blocks."""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus
from typing import Any, Final

import msgspec
from aiohttp import hdrs, web

from broker.core.errors import BrokerError, Code, Malformed
from broker.core.lease import LeaseStatus
from broker.core.lifetime import parse_duration
from broker.core.propagation import Propagation, Unknown
from broker.core.rules import Block, Rule
from broker.core.selector import Selector, parse_selector
from broker.http.answer import NO_STORE, answer, is_known, nothing, timestamp
from broker.http.bodies import read_json
from broker.http.call import Call
from broker.http.idempotency import needed_idempotency_key
from broker.http.paging import cursor_at, cursor_of, limit_of, link_to, only, query_value, whole_number
from broker.http.presence import propagation_seen
from broker.ports import Hits
from broker.revocation import BlockFor, Order, Outcome

MAX_WAIT: Final = 60

SPARE_SECONDS: Final = 5.0
"""An answer never waits for so long that less is left of what a request may take."""

_SETTLED: Final = (LeaseStatus.REVOKED, LeaseStatus.EXPIRES_ONLY, LeaseStatus.STUCK, LeaseStatus.ABANDONED)
"""What becomes of leases that a rule covers, besides being tried again."""


class BlockWish(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A block to make with the rule: until a time (RFC 3339), for a duration, or until it is lifted."""

    until: str | None = None
    for_: str | None = msgspec.field(default=None, name="for")


class RevocationBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What ``POST /v1/revocations`` takes."""

    selector: dict[str, Any]
    reason: str | None = None
    incident: str | None = None
    block: BlockWish | None = None
    preview: bool = False
    wait: float = 0


async def create(call: Call) -> web.Response:
    """``POST /v1/revocations``: make a rule, or say what it would hit.

    201 when the rule is durable; 202 when it is in force but could not be written yet.
    """
    body = await read_json(call, RevocationBody)
    selector = parse_selector(body.selector)
    if not 0 <= body.wait <= MAX_WAIT:
        raise Malformed(f"wait: must be 0 to {MAX_WAIT} seconds")
    block = None if body.block is None else _block(body.block)
    if body.preview:
        return await _preview(call, body, selector, block)
    if body.reason is None:
        raise Malformed("reason: missing")
    order = Order(
        selector=selector,
        reason=body.reason,
        by=call.operator.agent.id,
        incident=body.incident,
        block=block,
        idempotency_key=needed_idempotency_key(call.request),
    )
    outcome = await call.services.revocation.revoke(order, call.caller)
    seen = await call.services.propagations.awaited(outcome.rule, _patience(body.wait, call), order.by)
    status = HTTPStatus.CREATED if outcome.durable else HTTPStatus.ACCEPTED
    place = outcome.rule.id if outcome.rule.number is None else outcome.rule.number
    told = {**described(outcome, seen), "leases": await _lease_outcomes(call, outcome)}
    return answer(told, status, location=f"/v1/revocations/{place}")


async def index(call: Call) -> web.Response:
    """``GET /v1/revocations``: all rules, ended ones included, the youngest first; those not yet durable on top."""
    only(call.request, "limit", "cursor")
    limit, before = limit_of(call.request), cursor_of(call.request)
    rules = await call.services.records.rules(before=before, limit=limit)
    live = call.services.revocations.rules
    pending = [rule for rule in live.live() if rule.number is None] if before is None else []
    last = rules[-1].number if len(rules) == limit else None
    cursor = None if last is None else cursor_at(last)
    found = [{**_rule(rule), "in_force": live.get(rule.id) is not None} for rule in (*pending, *rules)]
    return answer({"revocations": found, "next": cursor}, link=link_to(call.request, cursor))


async def show(call: Call) -> web.Response:
    """``GET /v1/revocations/{rule}``: one rule by its number, or by its id while it has none."""
    name = call.path_value("rule")
    rule = call.services.revocations.rules.get(name)
    if rule is None and name.isascii() and name.isdigit():
        rule = await call.services.records.rule(whole_number("rule", name))
    if rule is None:
        raise BrokerError(Code.NOT_FOUND, "there is no such rule")
    outcome = await call.services.revocation.outcome(rule)
    seen = await call.services.propagations.of(rule)
    return answer({**described(outcome, seen), "leases": await _lease_outcomes(call, outcome)})


async def snapshot(call: Call) -> web.Response:
    """``GET /v1/revocations/snapshot``: the signed list of live rules, which verifiers poll.

    A caller that has this very statement gets 304 and no body (RFC 9110, 13.1.2); its signature tells them apart.
    """
    statement = call.services.snapshot(call.services.clock.now())
    tag = f'"{statement.rpartition(".")[2]}"'
    headers = {hdrs.CACHE_CONTROL: NO_STORE, hdrs.ETAG: tag}
    if is_known(call.request, tag):
        return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
    headers[hdrs.CONTENT_TYPE] = "application/jwt"
    return web.Response(body=statement.encode("ascii"), headers=headers)


async def blocks(call: Call) -> web.Response:
    """``GET /v1/blocks``: the blocks in force."""
    live = call.services.revocations.blocks.live(call.services.clock.now())
    return answer({"blocks": [_block_in_force(block) for block in live]})


async def lift(call: Call) -> web.Response:
    """``DELETE /v1/blocks/{id}``: let what it refused be granted again; tokens that its rule killed stay dead."""
    only(call.request, "reason")
    reason = query_value(call.request, "reason") or "lifted"
    by = call.operator.agent.id
    await call.services.revocation.lift(call.path_value("id"), by=by, reason=reason, caller=call.caller)
    return nothing()


def described(outcome: Outcome, seen: Propagation | Unknown) -> dict[str, Any]:
    """Return what a revocation did, in the shape that a preview has too."""
    block = outcome.block
    return {
        **_rule(outcome.rule),
        "hits": hits_found(outcome.hits),
        "counting": outcome.durable and outcome.hits is None,
        "block": None if block is None else {"id": block.id, "until": _maybe(block.until)},
        "durable": outcome.durable,
        "propagation": propagation_seen(seen),
    }


async def _lease_outcomes(call: Call, outcome: Outcome) -> dict[str, int] | None:
    """Return what has become of the leases that a rule covers, None if that cannot be said now.

    What it covers and nobody has begun to revoke is ``retrying`` already.
    """
    number, hits = outcome.rule.number, outcome.hits
    if number is None or hits is None:
        return None
    try:
        found = await call.services.oversight.outcomes(number)
    except BrokerError:
        return None
    settled = {status.value: found.get(status, 0) for status in _SETTLED}
    covered = hits.leases.revocable + hits.leases.expires_only
    return {**settled, LeaseStatus.RETRYING.value: max(0, covered - sum(settled.values()))}


async def _preview(call: Call, body: RevocationBody, selector: Selector, block: BlockFor | None) -> web.Response:
    now = call.services.clock.now()
    hits = await call.services.revocation.preview(selector)
    described_block = None if block is None else {"id": None, "until": _maybe(block.end(now))}
    return answer(
        {
            "rule": None,
            "id": None,
            "selector": selector.to_dict(),
            "reason": body.reason,
            "incident": body.incident,
            "by": call.operator.agent.id,
            "at": now,
            "ends": None,
            "preview": True,
            "hits": hits_found(hits),
            "counting": False,
            "block": described_block,
            "durable": None,
            "propagation": propagation_seen(await call.services.propagations.ahead()),
            "leases": None,
        }
    )


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "rule": rule.number,
        "id": rule.id,
        "selector": rule.selector.to_dict(),
        "reason": rule.reason,
        "incident": rule.incident,
        "by": rule.by,
        "at": rule.at,
        "ends": _maybe(rule.ends_at),
    }


def hits_found(hits: Hits | None) -> dict[str, Any] | None:
    """Return what a rule hit, None while that is not counted."""
    if hits is None:
        return None
    return {
        "tokens": hits.tokens,
        "tasks": hits.tasks,
        "agents": hits.agents,
        "latest_expiry": _maybe(hits.latest_expiry),
        "leases": {
            "revocable": hits.leases.revocable,
            "expires_only": hits.leases.expires_only,
            "latest_expiry": _maybe(hits.leases.latest_expiry),
        },
    }


def _block_in_force(block: Block) -> dict[str, Any]:
    return {
        "id": block.id,
        "rule": block.rule,
        "selector": block.selector.to_dict(),
        "reason": block.reason,
        "by": block.by,
        "at": block.at,
        "until": _maybe(block.until),
    }


def _patience(wait: float, call: Call) -> float:
    """Return how long an answer may wait: what was asked for, but less than a request may take."""
    return min(wait, max(0.0, call.site.request_seconds - SPARE_SECONDS))


def _maybe(seconds: float | None) -> str | None:
    return None if seconds is None else timestamp(seconds)


def _block(wish: BlockWish) -> BlockFor:
    if wish.until is not None and wish.for_ is not None:
        raise Malformed("block: give until or for, not both")
    if wish.for_ is not None:
        return BlockFor(seconds=parse_duration(wish.for_, "block.for"))
    return BlockFor(until=None if wish.until is None else _moment("block.until", wish.until))


def _moment(name: str, text: str) -> float:
    """Return RFC 3339 text as Unix seconds. Raises ``Malformed``; a time without a zone is nobody's time."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise Malformed(f"{name}: must be a time such as 2026-11-22T14:02:00Z") from error
    if moment.tzinfo is None:
        raise Malformed(f"{name}: must name its time zone, such as Z")
    return moment.timestamp()
