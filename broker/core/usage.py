"""What was used of a policy, as the ledger counts it: the evidence that advice is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from broker.core.change import RATE_STEP

WINDOW: Final = 60 + RATE_STEP
"""Seconds: as far back as a rate limit counts (a minute, in sub-windows of ten seconds).

Tokens are counted in stretches of this length, so that any such stretch of time holds at most twice the most that was
seen in one of them.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeUse:
    """How many tokens of a role had a scope at an audience, and the longest life of one, in seconds."""

    role: str
    audience: str
    scope: str
    tokens: int
    longest: int
    last_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretUse:
    """How many leases of a secret a role was given, and for how long the longest was held, renewed or not (seconds)."""

    role: str
    secret: str
    leases: int
    longest: int
    last_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentUse:
    """How many tokens of a role an agent got, and how many leases it asked for with them.

    ``subject`` is the agent in its issuer's words; None if it only used tokens that it got before.
    """

    role: str
    agent: str
    issuer: str
    subject: str | None
    tokens: int
    leases: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleUse:
    """How a role was used.

    ``agent_peak`` and ``role_peak`` are the most tokens in one stretch of :data:`WINDOW` seconds, of one agent and of
    all; for one agent leases count as well, as its limit has it. ``live_leases`` are the most leases of one agent that
    were alive at once. ``task_tokens`` are the most tokens in one task. ``tasks`` were opened, of which the longest was
    open for ``longest_task`` seconds (until its deadline if it was not closed). ``shared`` says that some of its tasks
    had sub-tasks, which reserve their budgets from them.
    """

    agent_peak: int = 0
    role_peak: int = 0
    live_leases: int = 0
    task_tokens: int = 0
    tasks: int = 0
    longest_task: int = 0
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """The largest number that tasks of a role had of something when they were opened, and the next below it.

    What was not asked for is the role's limit itself: so if the largest is that, the next is what somebody asked for.
    """

    largest: int
    following: int | None = None

    def with_one_more(self, number: int) -> Asked:
        """Return the two largest of these and another number."""
        top = sorted({self.largest, number, *(() if self.following is None else (self.following,))}, reverse=True)
        return Asked(top[0], top[1] if len(top) > 1 else None)

    def beside(self, limit: int) -> int:
        """Return the largest number that somebody must have asked for under a limit; 0 if none shows."""
        return self.largest if self.largest != limit else self.following or 0


@dataclass(frozen=True, slots=True)
class Load:
    """A policy that was put in force at ``at`` (Unix seconds). ``roles`` are the digests of its roles, if recorded."""

    at: float
    policy: str
    roles: Mapping[str, str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What was used since a time (Unix seconds).

    ``complete`` is false if there was too much to list; then what is missing may have been used. ``asked`` is by role
    and what the tasks were opened with: ``task_ttl``, ``tokens``, or ``action:`` and a name. ``actions`` are the most
    in one task, by role and action; ``ceilings`` the scopes that tasks of a role were opened for (role, audience,
    scope), ``secret_ceilings`` the secrets (role, secret); ``delegations`` the tokens that came of another one, by the
    roles of both. ``loads`` are the policies in force since then, the youngest first; the last of them was loaded
    before, if any was.
    """

    since: float
    complete: bool
    scopes: tuple[ScopeUse, ...]
    secrets: tuple[SecretUse, ...]
    agents: tuple[AgentUse, ...]
    roles: Mapping[str, RoleUse]
    asked: Mapping[tuple[str, str], Asked]
    actions: Mapping[tuple[str, str], int]
    ceilings: frozenset[tuple[str, str, str]]
    secret_ceilings: frozenset[tuple[str, str]]
    delegations: Mapping[tuple[str, str], int]
    loads: tuple[Load, ...]
