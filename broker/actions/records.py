"""What the ledger records of actions."""

from __future__ import annotations

from typing import Any

from broker.actions.wish import Asked, Case
from broker.core.action import Action
from broker.core.entry import Entry, Kind, entry
from broker.core.errors import BrokerError
from broker.ports import Caller


def reserved_entry(case: Case, action: Action) -> Entry:
    """Return the entry of a reservation."""
    return entry(
        Kind.ACTION_RESERVED,
        case.now,
        ref=action.id,
        digest=action.digest,
        expires_at=int(action.settle_by),
        approval=case.wish.auth_req_id,
        **_about(case),
    )


def refused_entry(asked: Asked, refused: BrokerError) -> Entry:
    """Return the entry of a reservation that was refused."""
    return entry(Kind.ACTION_REFUSED, asked.now, code=refused.code.value, reason=refused.public, **_about(asked))


def _about(asked: Asked) -> dict[str, Any]:
    claims, wish = asked.claims, asked.wish
    return {
        "agent": claims.client_id,
        "issuer": claims.issuer,
        "role": claims.role,
        "task": claims.task,
        "audience": claims.aud,
        "scope": wish.needed_scope,
        "epoch": asked.epoch,
        "tier": claims.tier,
        "token": claims.jti,
        "bound_key": claims.jkt,
        "on_behalf_of": claims.sub,
        "actors": list(claims.agents),
        "action": wish.action,
        "count": wish.count,
        "target": wish.target,
        "by": asked.by.agent.id,
        "policy": asked.policy.digest,
        **asked.caller.members(),
    }


def settled_entry(action: Action, outcome: str, result: str | None, now: float, caller: Caller) -> Entry:
    """Return the entry of what came of a reservation."""
    return entry(
        Kind.ACTION_SETTLED,
        now,
        ref=action.id,
        agent=action.agent,
        task=action.task,
        audience=action.audience,
        action=action.name,
        count=action.count,
        target=action.target,
        digest=action.digest,
        outcome=outcome,
        result=result,
        by=action.by,
        **caller.members(),
    )
