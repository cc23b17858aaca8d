"""``/v1/policy``: loading the policy file anew, and advice on it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web

from broker.core.errors import Malformed
from broker.http.answer import answer
from broker.http.bodies import read_json
from broker.http.call import Call
from broker.http.paging import only, query_value, whole_number
from broker.http.revocations import hits_found
from broker.policy_control import Effect, Reload
from broker.right_sizing import DEFAULT_DAYS


class ReloadBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What ``POST /v1/policy/reload`` takes, if it is not empty."""

    preview: bool = False


async def reload(call: Call) -> web.Response:
    """``POST /v1/policy/reload``: load the policy file, or say what that would do.

    A bad file changes nothing, and every problem is named. 202 if not every rule for what was narrowed is durable.
    """
    body = await read_json(call, ReloadBody) if call.request.body_exists else ReloadBody()
    control = call.services.policy_control
    if body.preview:
        return answer(_reloaded(await control.preview()))
    done = await control.reload(by=call.operator.agent.id, caller=call.caller)
    return answer(_reloaded(done), HTTPStatus.OK if _is_done(done) else HTTPStatus.ACCEPTED)


async def advice(call: Call) -> web.Response:
    """``GET /v1/policy/advice?days=&role=&force=``: what was used of the policy, and how it could be narrower."""
    only(call.request, "days", "role", "force")
    days, role, force = (query_value(call.request, name) for name in ("days", "role", "force"))
    if force not in {None, "true", "false"}:
        raise Malformed("force: must be true or false")
    chosen = DEFAULT_DAYS if days is None else whole_number("days", days)
    return answer(await call.services.right_sizing.advice(days=chosen, role=role, force=force == "true"))


def _is_done(done: Reload) -> bool:
    """Whether every rule that the policy asks for is made and durable."""
    return not any(effect.failure is not None or effect.durable is False for effect in done.effects)


def _reloaded(done: Reload) -> dict[str, Any]:
    return {
        "policy": done.policy.digest,
        "preview": done.preview,
        "on_narrowing": done.policy.on_narrowing,
        "complete": _is_done(done),
        "narrowing": [_effect(effect) for effect in done.effects],
    }


def _effect(effect: Effect) -> dict[str, Any]:
    cover, rule, failure = effect.cover, effect.rule, effect.failure
    return {
        "selector": None if cover.selector is None else cover.selector.to_dict(),
        "reasons": cover.reasons,
        "exact": cover.exact,
        "hits": hits_found(effect.hits),
        "rule": None if rule is None else rule.number,
        "id": None if rule is None else rule.id,
        "durable": effect.durable,
        "failure": None if failure is None else {"code": failure.code.value, "detail": failure.public},
    }
