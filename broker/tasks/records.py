"""What the ledger records of tasks."""

from __future__ import annotations

from dataclasses import dataclass

from broker.core.claims import AccessClaims
from broker.core.entry import Entry, Kind, entry
from broker.core.task import Task
from broker.ports import Caller


@dataclass(frozen=True, slots=True)
class End:
    """Why, by whom and when a task is closed; ``caller`` is None for what the broker does by itself."""

    because: str
    by: str
    reason: str
    caller: Caller | None
    now: float


def opened_entry(task: Task, claims: AccessClaims, policy_digest: str, caller: Caller) -> Entry:
    """Return the entry of a task that the holder of a token opens."""
    budget = task.budget
    limits = {"tokens": budget.tokens, "leases": budget.leases, "actions": budget.actions and dict(budget.actions)}
    return entry(
        Kind.TASK_OPENED,
        task.opened_at,
        ref=task.id,
        task=task.id,
        agent=task.owner,
        issuer=claims.issuer,
        role=task.role,
        token=claims.jti,
        bound_key=claims.jkt,
        on_behalf_of=claims.sub if claims.agents else None,
        actors=list(claims.agents),
        path=list(task.path),
        purpose=task.purpose,
        flagged=task.flagged or None,
        deadline=task.deadline,
        idle_timeout=task.idle_timeout,
        scopes=None if task.scopes is None else {audience: list(scopes) for audience, scopes in task.scopes.items()},
        secrets=None if task.secrets is None else list(task.secrets),
        budget={name: limit for name, limit in limits.items() if limit is not None},
        labels=dict(task.labels),
        policy=policy_digest,
        **caller.members(),
    )


def heard_entry(task_id: str, claims: AccessClaims, now: float, caller: Caller) -> Entry:
    """Return the entry of a heartbeat."""
    members = {"task": task_id, "agent": claims.client_id, "issuer": claims.issuer, "role": claims.role}
    members |= {"token": claims.jti}
    return entry(Kind.TASK_HEARD, now, **members, **caller.members())


def closed_entry(task: Task, end: End) -> Entry:
    """Return the entry of a task that is closed while it holds nothing; else its rule's entry says that it closes."""
    return entry(
        Kind.TASK_CLOSED,
        end.now,
        ref=task.id,
        task=task.id,
        agent=task.owner,
        role=task.role,
        because=end.because,
        by=end.by,
        reason=end.reason,
        **({} if end.caller is None else end.caller.members()),
    )
