"""The task of a token whose request named none: made with the defaults of its role, stored when it is first needed."""

from __future__ import annotations

from typing import Final

from broker.core.claims import AccessClaims
from broker.core.policy.model import Limits
from broker.core.task import DEFAULT_TASK_TTL, Budget, Task

PURPOSE: Final = "one token, for which no task was opened"
LEASE_PURPOSE: Final = "one lease, for which no task was opened"


def default_budget(limits: Limits) -> Budget:
    """Return the budget of a task that asks for none."""
    return Budget(tokens=limits.tokens_per_task, actions=limits.actions)


def implicit_task(claims: AccessClaims, limits: Limits) -> Task:
    """Return the task of a token that was not exchanged and whose task is not stored.

    ``limits`` are those of its role. The token itself is the first that the budget pays for. The task ends with the
    token, which everything that comes of it ends with, too.
    """
    budget = default_budget(limits)
    left = None if budget.tokens is None else max(0, budget.tokens - 1)
    return Task(
        id=claims.task,
        owner=claims.sub,
        role=claims.role,
        purpose=PURPOSE,
        opened_at=claims.iat,
        deadline=claims.exp,
        budget=Budget(tokens=left, leases=budget.leases, actions=budget.actions),
        implicit=True,
    )


def lease_task(task_id: str, claims: AccessClaims, limits: Limits, now: float) -> Task:
    """Return the task of a lease that is taken with a token of one's own, in no task that was opened."""
    return Task(
        id=task_id,
        owner=claims.client_id,
        role=claims.role,
        purpose=LEASE_PURPOSE,
        opened_at=now,
        deadline=int(now) + (limits.task_ttl or DEFAULT_TASK_TTL),
        budget=default_budget(limits),
        implicit=True,
    )
