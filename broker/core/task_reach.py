"""Which stored tasks a caller may see, extend and end: judged by the claims of the token that it came with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from broker.core.claims import AccessClaims
from broker.core.selector import Fact
from broker.core.task import Task

OPERATOR: Final = "operator:read"
"""The scope that sees every task."""

REVOKER: Final = "revocations:write"
"""The scope that may end every task."""


@dataclass(frozen=True, slots=True)
class Reach:
    """A caller's relation to tasks.

    ``confined`` says that the token is of a task that was opened, or that it was handed on: then its holder's being the
    owner of other tasks counts for nothing outside of that task, so that a token does no more than the work it is for.
    """

    claims: AccessClaims
    confined: bool

    @property
    def agent(self) -> str:
        """Who acts: the agent that holds the token."""
        return self.claims.client_id

    def is_within(self, task: Task) -> bool:
        """Whether the token is of this task, or of one below it."""
        return task.id == self.claims.task or task.id in self.claims.path

    def is_below(self, task: Task) -> bool:
        """Whether the task is that of the token, or is below it."""
        return self.claims.task == task.id or self.claims.task in task.path

    def covers(self, task: Task) -> bool:
        """Whether owning this task, or one above it, counts for anything with this token."""
        return not self.confined or self.is_below(task)

    def sees_all(self) -> bool:
        """Whether the caller may see every task."""
        return OPERATOR in self.claims.scopes

    def ends_all(self) -> bool:
        """Whether the caller may end every task."""
        return REVOKER in self.claims.scopes

    def facts(self) -> frozenset[Fact]:
        """Return the facts of the caller that blocks look at: agents, issuers, roles and tasks, its ancestors' too."""
        claims = self.claims
        return frozenset(
            {
                *(("agent", agent) for agent in (claims.sub, claims.client_id, *claims.agents)),
                *(("task", task) for task in (claims.task, *claims.path)),
                *(fact for fact in claims.inherited if fact[0] in {"agent", "issuer", "role", "task"}),
                ("issuer", claims.issuer),
                ("role", claims.role),
            }
        )


def reach_of(claims: AccessClaims, stored: Task | None) -> Reach:
    """Return the reach of a token; ``stored`` is the task that it is of, if that is stored.

    A token that nobody handed on, and whose task is one of its own making, is as good as its holder.
    """
    is_of_opened = bool(claims.path) or (stored is not None and not stored.implicit)
    return Reach(claims, confined=bool(claims.agents) or is_of_opened)
