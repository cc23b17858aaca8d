"""``/v1/policy``: loading the policy file anew, explaining what the policy says to a request, and advice on it."""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final

import msgspec
from aiohttp import web

from broker.core.audience import canonical_audience
from broker.core.details import parse_details
from broker.core.entry import Kind
from broker.core.errors import BrokerError, Code, Malformed
from broker.core.explain import Explanation, recorded_request
from broker.core.explain import explain as explain_decision
from broker.core.grant import Ask, Denied, Granted, NeedsApproval
from broker.core.identity import REGISTERED, Agent, Attribute
from broker.core.policy import BROKER
from broker.core.scope import parse_scopes
from broker.core.supposing import Supposed
from broker.core.task import parse_task_id
from broker.http.answer import answer
from broker.http.bodies import read_json
from broker.http.call import Call
from broker.http.paging import only, query_value, whole_number
from broker.http.revocations import hits_found
from broker.policy_control import Effect, Reload
from broker.ports import Record
from broker.right_sizing import DEFAULT_DAYS

ANY_KEY: Final = "any key"
"""Stands for the key of an explained request that is made with a proof of possession."""

_EXCHANGED: Final = (
    "the request was to exchange a token, of which nothing is recorded; this is what the agent gets in its own name: "
    "explain it with the role that delegates for the rest"
)
_OUTCOMES: Final = {Granted: "granted", Denied: "denied", NeedsApproval: "needs_approval"}


class AgentWish(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An agent as its issuer would vouch for it; a registered one by default."""

    id: str
    issuer: str = REGISTERED
    subject: str | None = None
    attributes: dict[str, str | int | bool | list[str]] = {}


class AskWish(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What that agent would ask for. ``proof`` says that it proves possession of a key.

    ``delegated_by`` is the role whose token it would exchange; ``break_glass`` says that it gives a reason to go ahead.
    """

    audience: str | None = None
    scopes: list[str] | None = None
    task: str | None = None
    details: list[dict[str, Any]] | None = None
    delegated_by: str | None = None
    break_glass: bool = False
    proof: bool = False


class ExplanationBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What ``POST /v1/policy/explain`` takes: a past refusal by its id, or an agent and what it would ask for."""

    refusal: str | None = None
    agent: AgentWish | None = None
    ask: AskWish | None = None


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


async def explain(call: Call) -> web.Response:
    """``POST /v1/policy/explain``: why the policy in force now grants or refuses a request, line by line."""
    body = await read_json(call, ExplanationBody)
    recorded, exchanged = None, False
    if body.refusal is not None:
        if body.agent is not None or body.ask is not None:
            raise Malformed("give a refusal, or an agent and an ask, not both")
        record = await _refusal(call, body.refusal)
        agent, ask = recorded_request(record.members)
        supposed = Supposed(agent=agent, ask=ask)
        exchanged = record.members.get("exchange") is True
        recorded = {"seq": record.seq, "entry": msgspec.Raw(record.body)}
    elif body.agent is None or body.ask is None:
        raise Malformed("give a refusal, or an agent and an ask")
    else:
        supposed = _supposed(call, body.agent, body.ask)
    policy, blocks = call.services.policy_control.current(), call.services.revocations.blocks
    explanation = explain_decision(policy, blocks, supposed, call.services.clock.now())
    if exchanged:
        explanation = replace(explanation, notes=(_EXCHANGED, *explanation.notes))
    return answer({"policy": policy.digest, **_described(explanation), "refusal": recorded})


async def _refusal(call: Call, ref: str) -> Record:
    record = await call.services.records.record_of(ref)
    kind = None if record is None else str(record.members["kind"])
    if record is None or kind is None or not kind.endswith(".refused"):
        raise BrokerError(Code.NOT_FOUND, "the ledger has no refusal of this id")
    if kind != Kind.TOKEN_REFUSED:
        why = f"{record.members.get('code')}: {record.members.get('reason')}"
        text = f"only requests for access tokens are explained; entry {record.seq} is of another kind ({kind}), {why}"
        raise BrokerError(Code.NOT_FOUND, text)
    return record


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


def _described(explanation: Explanation) -> dict[str, Any]:
    """Return the decision, every line that led to it as data, and all of it as text for people."""
    return {
        "outcome": _OUTCOMES[type(explanation.decision)],
        "decision": explanation.decision,
        "notes": explanation.notes,
        "roles": explanation.roles,
        "text": explanation.lines(),
    }


def _agent(wish: AgentWish) -> Agent:
    attributes = {name: _attribute(value) for name, value in wish.attributes.items()}
    return Agent(wish.id, wish.issuer, wish.id if wish.subject is None else wish.subject, attributes)


def _supposed(call: Call, agent: AgentWish, wish: AskWish) -> Supposed:
    role = None
    if wish.delegated_by is not None:
        role = call.services.policy_control.current().roles.get(wish.delegated_by)
        if role is None:
            raise Malformed("delegated_by: is not a role of the policy")
    return Supposed(agent=_agent(agent), ask=_ask(call, wish), delegated_by=role, break_glass=wish.break_glass)


def _ask(call: Call, wish: AskWish) -> Ask:
    audience = wish.audience
    if audience is not None:
        audience = call.site.api_audience if audience == BROKER else canonical_audience(audience)
    return Ask(
        audience=audience,
        scopes=None if wish.scopes is None else parse_scopes(" ".join(wish.scopes)),
        task=None if wish.task is None else parse_task_id(wish.task),
        jkt=ANY_KEY if wish.proof else None,
        details=None if wish.details is None else parse_details(msgspec.json.encode(wish.details).decode()),
    )


def _attribute(value: Attribute | list[str]) -> Attribute:
    """Return a claim in the shape that the policy matches: a list is a tuple there."""
    return tuple(value) if isinstance(value, list) else value
