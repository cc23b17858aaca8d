"""What the ledger records of actions."""

from __future__ import annotations

from typing import Any

from broker.actions.wish import Case
from broker.core.action import Action
from broker.core.entry import Entry, Kind, entry
from broker.core.errors import GuardFailed
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


def refused_entry(case: Case, failed: GuardFailed) -> Entry:
    """Return the entry of a reservation that was refused."""
    return entry(Kind.ACTION_REFUSED, case.now, code=failed.code.value, reason=failed.public, **_about(case))


def _about(case: Case) -> dict[str, Any]:
    claims, wish = case.claims, case.wish
    return {
        "agent": claims.client_id,
        "issuer": claims.issuer,
        "role": claims.role,
        "task": claims.task,
        "audience": claims.aud,
        "scope": wish.needed_scope,
        "epoch": case.epoch,
        "token": claims.jti,
        "on_behalf_of": claims.sub,
        "actors": list(claims.agents),
        "action": wish.action,
        "count": wish.count,
        "target": wish.target,
        "by": case.by.agent.id,
        "policy": case.policy.digest,
        **case.caller.members(),
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
