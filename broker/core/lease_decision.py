"""The decision on a lease: may the holder of this token have this secret? Default deny; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from broker.core.bounds import revoking, unopened
from broker.core.claims import AccessClaims
from broker.core.errors import Code
from broker.core.grant import Denied
from broker.core.lease import lease_facts
from broker.core.policy.model import Approval, Policy, Role, SecretAllow
from broker.core.rules import BlockIndex, RuleIndex
from broker.core.selector import Fact
from broker.core.task import Task

_NOT_THIS = Denied(Code.SECRET_NOT_ALLOWED, "this secret is not allowed to this agent")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseAsk:
    """A request for a lease, parsed but not judged: ``ttl`` is in seconds, None for as long as it may be.

    ``key`` is the thumbprint of the key that the secret is to be encrypted to.
    """

    lease: str
    secret: str
    ttl: int | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseGranted:
    """The policy allows it: for ``ttl`` seconds at first, until ``ends_by`` (Unix seconds) with all renewals.

    ``asks`` is whose approval it needs; ``facts`` are those of the lease to be.
    """

    role: Role
    allow: SecretAllow
    ttl: int
    ends_by: int
    facts: frozenset[Fact]
    asks: Approval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a decision on a lease looks at, all of it as of one moment. ``now`` is Unix seconds."""

    policy: Policy
    rules: RuleIndex
    blocks: BlockIndex
    claims: AccessClaims
    kid: str
    task: Task
    now: float


def decide_lease(ground: Ground, ask: LeaseAsk) -> LeaseGranted | Denied:
    """Decide on a request for a lease, by the role of the token that it comes with."""
    policy, claims, task = ground.policy, ground.claims, ground.task
    role = policy.roles.get(claims.role)
    if role is None:
        return Denied(Code.NO_ROLE, "the policy does not have the role of this token any more")
    allow = role.secrets.get(ask.secret)
    if allow is None or not _whole_line_allows(policy, claims, role, ask.secret):
        return _NOT_THIS
    facts = facts_of(ground, ask.lease, allow)
    denied = _standing(ground, facts) or _beyond_task(role, task, ask) or _unmet(allow, claims, ask)
    if denied is not None:
        return denied
    longest = min(allow.ttl, int(task.deadline - ground.now))
    if longest < 1:
        return Denied(Code.TASK_NOT_OPEN, "the task is over")
    return LeaseGranted(
        role=role,
        allow=allow,
        ttl=longest if ask.ttl is None else min(ask.ttl, longest),
        ends_by=int(ground.now) + longest,
        facts=facts,
        asks=allow.asks,
    )


def facts_of(ground: Ground, lease: str, allow: SecretAllow) -> frozenset[Fact]:
    """Return the facts of a lease: those of its secret, of the token that it is taken with, and of its task."""
    secret, task = allow.secret, ground.task
    own = lease_facts(lease, secret.name, secret.backend, secret.tier.name, ground.claims, ground.kid)
    return own.union(("task", each) for each in (task.id, *task.path))


def _whole_line_allows(policy: Policy, claims: AccessClaims, role: Role, secret: str) -> bool:
    """Whether every role that the token was handed down from allows the secret too, or lets this one use its own."""
    others = (value for name, value in claims.inherited if name == "role" and value != role.name)
    return all(_hands_down(policy.roles, other, role, secret) for other in others)


def _hands_down(roles: Mapping[str, Role], other: str, role: Role, secret: str) -> bool:
    above = roles.get(other)
    if above is None:
        return False
    delegate = above.may_delegate_to.get(role.name)
    return secret in above.secrets or (delegate is not None and delegate.own_grants)


def _standing(ground: Ground, facts: frozenset[Fact]) -> Denied | None:
    """Return why nothing may be granted any more: a rule on the token or the task, or a block."""
    if ground.rules.killer(ground.claims.facts(ground.kid), ground.claims.epoch) is not None:
        return Denied(Code.TOKEN_REVOKED, "the token has been revoked")
    if revoking(ground.rules, (ground.task.id, *ground.task.path)) is not None:
        return Denied(Code.TASK_NOT_OPEN, "the task is not open (revoked)")
    block = ground.blocks.refusing(facts, ground.now)
    return None if block is None else Denied(Code.BLOCKED, f"blocked by an operator: {block.id}")


def _beyond_task(role: Role, task: Task, ask: LeaseAsk) -> Denied | None:
    if task.secrets is not None and ask.secret not in task.secrets:
        return Denied(Code.TASK_CEILING, "the task was opened for less than this")
    return unopened(role, task)


def _unmet(allow: SecretAllow, claims: AccessClaims, ask: LeaseAsk) -> Denied | None:
    tier = allow.secret.tier
    if tier.proof_required and claims.jkt is None:
        return Denied(Code.PROOF_REQUIRED, "this secret needs a token that is bound to a key (RFC 9449)")
    if tier.encrypted and ask.key is None:
        return Denied(Code.ENCRYPTION_REQUIRED, "this secret is only handed out encrypted: send encrypt_to")
    return None
