"""``POST /v1/policy/explain``: what the policy in force says to a request for a token or a lease, and to a past one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import msgspec
from aiohttp import web

from broker.core.audience import canonical_audience
from broker.core.details import parse_details
from broker.core.entry import Kind
from broker.core.errors import BrokerError, Code, Malformed
from broker.core.explain import Explanation, recorded_request
from broker.core.explain import explain as explain_token
from broker.core.explain_lease import explain_lease, recorded_lease
from broker.core.grant import Ask, Denied, Granted, NeedsApproval
from broker.core.identity import REGISTERED, Agent, Attribute, is_name
from broker.core.personal import ERASED
from broker.core.policy import BROKER, Role
from broker.core.scope import parse_scopes
from broker.core.supposing import Supposed
from broker.core.supposing_leases import LeaseAllowed, LeaseNeedsApproval, SupposedLease
from broker.core.task import parse_task_id
from broker.http.answer import answer
from broker.http.bodies import read_json
from broker.http.call import Call
from broker.http.ledger import described
from broker.ports import Record

ANY_KEY: Final = "any key"
"""Stands for the key of an explained request that is made with a proof of possession, or to be encrypted to."""

_ERASED: Final = "what was personal in the request was erased: it is judged without its agent's attributes and details"
_EXCHANGED: Final = (
    "the request was to exchange a token; this is what the agent gets in its own name: explain it with the role that "
    "delegates for the rest"
)
_NOT_BY_POLICY: Final = "the policy allows it now; limits, budgets, and what the backend says are left aside here"
_OUTCOMES: Final = {
    Granted: "granted",
    LeaseAllowed: "granted",
    Denied: "denied",
    NeedsApproval: "needs_approval",
    LeaseNeedsApproval: "needs_approval",
}
_EXPLAINED: Final = frozenset({Kind.TOKEN_REFUSED.value, Kind.LEASE_REFUSED.value})


class AgentWish(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An agent as its issuer would vouch for it; a registered one by default."""

    id: str
    issuer: str = REGISTERED
    subject: str | None = None
    attributes: dict[str, str | int | bool | list[str]] = {}


class AskWish(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What that agent would ask for: a token, or the lease of a ``secret``.

    ``proof`` says that it proves possession of a key (that of its token, if it asks for a secret), ``encrypted`` that
    it names a key that the secret is to be encrypted to. ``delegated_by`` is the role whose token it would exchange;
    ``break_glass`` says that it gives a reason to go ahead.
    """

    audience: str | None = None
    scopes: list[str] | None = None
    secret: str | None = None
    task: str | None = None
    details: list[dict[str, Any]] | None = None
    delegated_by: str | None = None
    break_glass: bool = False
    proof: bool = False
    encrypted: bool = False


class ExplanationBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What ``POST /v1/policy/explain`` takes: a past refusal by its id, or an agent and what it would ask for."""

    refusal: str | None = None
    agent: AgentWish | None = None
    ask: AskWish | None = None


async def explain(call: Call) -> web.Response:
    """``POST /v1/policy/explain``: why the policy in force now grants or refuses a request, line by line."""
    body = await read_json(call, ExplanationBody)
    if body.refusal is not None:
        if body.agent is not None or body.ask is not None:
            raise Malformed("give a refusal, or an agent and an ask, not both")
        return await _explain_refusal(call, body.refusal)
    if body.agent is None or body.ask is None:
        raise Malformed("give a refusal, or an agent and an ask")
    supposed = _lease(call, body.agent, body.ask) if body.ask.secret is not None else _token(call, body.agent, body.ask)
    return _answered(call, _explained(call, supposed), None)


async def _explain_refusal(call: Call, ref: str) -> web.Response:
    record = await call.services.records.record_of(ref)
    kind = None if record is None else str(record.members["kind"])
    if record is None or kind is None or not kind.endswith(".refused"):
        raise BrokerError(Code.NOT_FOUND, "the ledger has no refusal of this id")
    if kind not in _EXPLAINED:
        why = f"{record.members.get('code')}: {record.members.get('reason')}"
        text = (
            f"only requests for tokens and leases are explained; entry {record.seq} is of another kind ({kind}), {why}"
        )
        raise BrokerError(Code.NOT_FOUND, text)
    if kind == Kind.LEASE_REFUSED:
        explanation = _explained(call, await _refused_lease(call, record))
        notes = (_NOT_BY_POLICY,) if isinstance(explanation.decision, LeaseAllowed) else ()
    else:
        agent, ask = recorded_request(record.members)
        explanation = _explained(call, Supposed(agent=agent, ask=ask))
        notes = (_EXCHANGED,) if record.members.get("exchange") is True else ()
    erased = (_ERASED,) if ERASED in record.members else ()
    return _answered(call, replace(explanation, notes=(*notes, *erased, *explanation.notes)), record)


async def _refused_lease(call: Call, record: Record) -> SupposedLease:
    """Return the request for a lease that was refused, with what is known of its token and of its task."""
    records, members = call.services.records, record.members
    token = await records.record_of(str(members.get("token")))
    state = await records.task(str(members.get("task")))
    supposed = recorded_lease(members, None if token is None else token.members)
    if state is None or state.task.implicit:
        return supposed
    return replace(supposed, task=state.task.id, ceiling=state.task.secrets)


def _explained(call: Call, supposed: Supposed | SupposedLease) -> Explanation:
    policy, blocks = call.services.policy_control.current(), call.services.revocations.blocks
    now = call.services.clock.now()
    if isinstance(supposed, SupposedLease):
        return explain_lease(policy, blocks, supposed, now)
    return explain_token(policy, blocks, supposed, now)


def _answered(call: Call, explanation: Explanation, record: Record | None) -> web.Response:
    """Answer with the decision, every line that led to it as data, and all of it as text for people."""
    body = {
        "policy": call.services.policy_control.current().digest,
        "outcome": _OUTCOMES[type(explanation.decision)],
        "decision": explanation.decision,
        "notes": explanation.notes,
        "roles": explanation.roles,
        "text": explanation.lines(),
        "refusal": None if record is None else described(record),
    }
    return answer(body)


def _token(call: Call, agent: AgentWish, wish: AskWish) -> Supposed:
    if wish.encrypted:
        raise Malformed("ask.encrypted: goes with a secret")
    audience = wish.audience
    if audience is not None:
        audience = call.site.api_audience if audience == BROKER else canonical_audience(audience)
    ask = Ask(
        audience=audience,
        scopes=None if wish.scopes is None else parse_scopes(" ".join(wish.scopes)),
        task=_task(wish),
        jkt=ANY_KEY if wish.proof else None,
        details=None if wish.details is None else parse_details(msgspec.json.encode(wish.details).decode()),
    )
    role = _delegated_by(call, wish)
    return Supposed(agent=_agent(agent), ask=ask, delegated_by=role, break_glass=wish.break_glass)


def _lease(call: Call, agent: AgentWish, wish: AskWish) -> SupposedLease:
    if (wish.audience, wish.scopes, wish.details) != (None, None, None):
        raise Malformed("ask: names a secret, or what a token is for (audience, scopes, details), not both")
    if wish.secret is None or not is_name(wish.secret):
        raise Malformed("ask.secret: a secret is named with lower-case letters, digits and . _ - (at most 128)")
    return SupposedLease(
        agent=_agent(agent),
        secret=wish.secret,
        jkt=ANY_KEY if wish.proof else None,
        encrypt_to=ANY_KEY if wish.encrypted else None,
        task=_task(wish),
        delegated_by=_delegated_by(call, wish),
        break_glass=wish.break_glass,
    )


def _delegated_by(call: Call, wish: AskWish) -> Role | None:
    if wish.delegated_by is None:
        return None
    role = call.services.policy_control.current().roles.get(wish.delegated_by)
    if role is None:
        raise Malformed("delegated_by: is not a role of the policy")
    return role


def _task(wish: AskWish) -> str | None:
    return None if wish.task is None else parse_task_id(wish.task)


def _agent(wish: AgentWish) -> Agent:
    attributes = {name: _attribute(value) for name, value in wish.attributes.items()}
    return Agent(wish.id, wish.issuer, wish.id if wish.subject is None else wish.subject, attributes)


def _attribute(value: Attribute | list[str]) -> Attribute:
    """Return a claim in the shape that the policy matches: a list is a tuple there."""
    return tuple(value) if isinstance(value, list) else value
