"""Advice: what a policy allows, held against what was used of it, and how it could be narrower (see ``proposing``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from broker.core.policy.matching import AgentMember, Member
from broker.core.policy.model import Policy, Role
from broker.core.task import ACTION, DEFAULT_TASK_TTL
from broker.core.usage import AgentUse, Load, Usage


class Edit(StrEnum):
    """How a policy document is to be changed. There is no edit that could make it wider."""

    REMOVE_ROLE = "remove_role"
    REMOVE_SCOPE = "remove_scope"
    REMOVE_SECRET = "remove_secret"
    REMOVE_MEMBER = "remove_member"
    REMOVE_DELEGATE = "remove_delegate"
    REMOVE_ACTION = "remove_action"
    SET_TTL = "set_max_ttl"
    SET_LIMIT = "set_limit"
    SET_ACTION = "set_action"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One edit of what the document says of a role.

    ``line`` is the place in ``allow`` or in ``members``; ``name`` the scope, secret, delegate, limit or action;
    ``value`` a count, or seconds. ``because`` says why, in words.
    """

    edit: Edit
    role: str
    because: str
    line: int | None = None
    name: str | None = None
    value: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeFinding:
    """A scope that a line of the policy (``path``) allows for ``allowed`` seconds, and how many tokens had it."""

    audience: str
    scope: str
    path: str
    allowed: int
    tokens: int
    longest: int | None
    last_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretFinding:
    """A secret that a line of the policy (``path``) allows for ``allowed`` seconds, and how many leases were given.

    ``longest`` is how long one was held, renewals included, in seconds.
    """

    secret: str
    path: str
    allowed: int
    leases: int
    longest: int | None
    last_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitFinding:
    """A limit (None: there is none), and the most that was seen of what it limits."""

    name: str
    allowed: int | None
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberFinding:
    """A member line, and how many tokens agents got that it may mean: claims are not recorded, so they count as met."""

    line: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegateFinding:
    """A role that may be delegated to, and how many tokens came of doing so."""

    role: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleFindings:
    """What was used of a role.

    ``unchanged_since`` (Unix seconds) is since when it is known to have been as it is; None if that is not known.
    ``judged`` says whether that was long enough for proposals; ``notes`` what was not proposed, and why.
    """

    role: str
    unchanged_since: float | None
    judged: bool
    scopes: tuple[ScopeFinding, ...]
    secrets: tuple[SecretFinding, ...]
    limits: tuple[LimitFinding, ...]
    members: tuple[MemberFinding, ...]
    delegates: tuple[DelegateFinding, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Everything that was found since a time (Unix seconds) about a policy, and what is proposed."""

    policy: str
    since: float
    until: float
    complete: bool
    roles: tuple[RoleFindings, ...]
    proposals: tuple[Proposal, ...]
    notes: tuple[str, ...]


def findings(role: Role, usage: Usage, since: float | None, *, judged: bool, notes: tuple[str, ...]) -> RoleFindings:
    """Return what a role allows beside what was used of it."""
    uses = {(use.audience, use.scope): use for use in usage.scopes if use.role == role.name}
    scopes = [
        ScopeFinding(
            audience=uri,
            scope=scope,
            path=line.path,
            allowed=line.ttl,
            tokens=0 if (use := uses.get((uri, scope))) is None else use.tokens,
            longest=None if use is None else use.longest,
            last_at=None if use is None else use.last_at,
        )
        for uri, allow in role.audiences.items()
        for scope, line in allow.scopes.items()
    ]
    agents = [use for use in usage.agents if use.role == role.name]
    return RoleFindings(
        role=role.name,
        unchanged_since=since,
        judged=judged,
        scopes=tuple(scopes),
        secrets=tuple(_secrets(role, usage)),
        limits=_limits(role, usage),
        members=tuple(MemberFinding(line=str(line), tokens=tokens_of(line, agents)) for line in role.members),
        delegates=tuple(
            DelegateFinding(role=name, tokens=usage.delegations.get((role.name, name), 0))
            for name in role.may_delegate_to
        ),
        notes=notes,
    )


def unchanged_since(policy: Policy, role: Role, loads: tuple[Load, ...]) -> float | None:
    """Return since when (Unix seconds) every policy that was in force said the same of a role as this one does."""
    since = None
    for load in loads:
        same = load.policy == policy.digest or (load.roles or {}).get(role.name) == role.digest
        if not same:
            break
        since = load.at
    return since


def tokens_of(line: Member, agents: list[AgentUse]) -> int:
    """Return how many tokens went to agents that a member line may mean, whatever their claims were."""
    return sum(use.tokens for use in agents if _may_mean(line, use))


def is_used(line: Member, agents: list[AgentUse]) -> bool:
    """Whether agents that a member line may mean got tokens, or leases with tokens that they had."""
    return any(use.tokens or use.leases for use in agents if _may_mean(line, use))


def _secrets(role: Role, usage: Usage) -> Iterator[SecretFinding]:
    uses = {use.secret: use for use in usage.secrets if use.role == role.name}
    for name, line in role.secrets.items():
        use = uses.get(name)
        yield SecretFinding(
            secret=name,
            path=line.path,
            allowed=line.ttl,
            leases=0 if use is None else use.leases,
            longest=None if use is None else use.longest,
            last_at=None if use is None else use.last_at,
        )


def _may_mean(line: Member, use: AgentUse) -> bool:
    if isinstance(line, AgentMember):
        return line.agent == use.agent
    if line.subject is None or use.subject is None:
        return line.issuer == use.issuer
    return line.issuer == use.issuer and line.subject.matches(use.subject)


def _limits(role: Role, usage: Usage) -> tuple[LimitFinding, ...]:
    limits, use = role.limits, usage.roles.get(role.name)
    if use is None:
        return ()
    found = [
        ("tokens_per_minute", limits.tokens_per_minute, use.agent_peak),
        ("role_tokens_per_minute", limits.role_tokens_per_minute, use.role_peak),
        ("tokens_per_task", limits.tokens_per_task, use.task_tokens),
        ("task_ttl", limits.task_ttl or DEFAULT_TASK_TTL, use.longest_task),
        ("live_leases", limits.live_leases, use.live_leases),
    ]
    names = sorted({name for of, name in usage.actions if of == role.name} | set(limits.actions or ()))
    for name in names:
        allowed = None if limits.actions is None else limits.actions.get(name, 0)
        found.append((ACTION + name, allowed, usage.actions.get((role.name, name), 0)))
    return tuple(LimitFinding(name=name, allowed=allowed, most=most) for name, allowed, most in found)
