"""Requests for leases that are only supposed: what would be decided, for a token that an agent would come with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from broker.core.claims import AccessClaims
from broker.core.errors import Code
from broker.core.grant import Ask, Denied, NeedsApproval
from broker.core.identity import Agent
from broker.core.implicit_task import lease_task
from broker.core.lease_decision import Ground, LeaseAsk, LeaseGranted, decide_lease
from broker.core.policy import Policy, Role
from broker.core.policy.operator_scopes import LEASE_SCOPE
from broker.core.rules import BlockIndex, RuleIndex
from broker.core.selector import Fact
from broker.core.supposing import Supposed, suppose
from broker.core.task import Task

_NO_TASK: Final = "none"
_NO_BREAK_GLASS: Final = Denied(Code.BREAK_GLASS_NOT_ALLOWED, "this role may not go ahead without approval")


@dataclass(frozen=True, slots=True, kw_only=True)
class SupposedLease:
    """A request for a lease that an agent might make.

    ``jkt`` is the thumbprint of the key that its token is bound to, ``encrypt_to`` that of the key that the secret is
    to be encrypted to. ``task`` is one that it names; ``ceiling`` are the secrets that this was opened for, None for
    all. ``delegated_by`` is the role of a token that it exchanges for the one that it comes with. With ``break_glass``
    it gives a reason to go ahead without approval. ``role`` is the role of its token and ``inherited`` are the facts of
    those that this comes of, where they are known; without a role it is the one that would give it such a token.
    """

    agent: Agent
    secret: str
    ttl: int | None = None
    jkt: str | None = None
    encrypt_to: str | None = None
    task: str | None = None
    ceiling: tuple[str, ...] | None = None
    delegated_by: Role | None = None
    break_glass: bool = False
    role: str | None = None
    inherited: tuple[Fact, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseAllowed:
    """The policy allows the lease: by which role, tier and line, and for how long with all renewals (seconds)."""

    secret: str
    role: str
    tier: str
    ttl: int
    allowed_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseNeedsApproval:
    """A person must approve first: ``quorum`` members of the role ``approvers`` within ``expires`` seconds.

    ``allowed`` is what the approval would be for; ``tier`` the one that asks, or whose line does.
    """

    tier: str
    approvers: str
    quorum: int
    expires: int
    allowed: LeaseAllowed


LeaseVerdict = LeaseAllowed | LeaseNeedsApproval | Denied


def suppose_lease(policy: Policy, blocks: BlockIndex, supposed: SupposedLease, now: float) -> LeaseVerdict:
    """Decide a request as it would be decided at ``now`` (Unix seconds).

    Limits, budgets and rates are left aside, and so is what the backend says.
    """
    if supposed.role is not None:
        return judge_lease(policy, blocks, policy.roles.get(supposed.role), supposed, now)
    token = suppose(policy, blocks, token_for(policy, supposed), now)
    match token:
        case Denied():
            return token
        case NeedsApproval():
            verdict = judge_lease(policy, blocks, policy.roles.get(token.granted.role), supposed, now)
            if not isinstance(verdict, LeaseAllowed):
                return verdict
            return LeaseNeedsApproval(
                tier=token.tier,
                approvers=token.approvers,
                quorum=token.quorum,
                expires=token.expires,
                allowed=verdict,
            )
        case _:
            return judge_lease(policy, blocks, policy.roles.get(token.role), supposed, now)


def token_for(policy: Policy, supposed: SupposedLease) -> Supposed:
    """Return the request for a token that leases can be taken with."""
    ask = Ask(audience=policy.broker_audience, scopes=(LEASE_SCOPE,), task=supposed.task, jkt=supposed.jkt)
    return Supposed(agent=supposed.agent, ask=ask, delegated_by=supposed.delegated_by, break_glass=supposed.break_glass)


def judge_lease(
    policy: Policy, blocks: BlockIndex, role: Role | None, supposed: SupposedLease, now: float
) -> LeaseVerdict:
    """Return what a role says, as the role of the token that the request comes with; None: there is no such role."""
    if role is None:
        return Denied(Code.NO_ROLE, "the policy does not have the role of this token any more")
    granted = decide_lease(_ground(policy, blocks, role, supposed, now), _ask(supposed))
    if isinstance(granted, Denied):
        return granted
    allowed = _allowed(granted, role)
    if granted.asks is None:
        return allowed
    if supposed.break_glass:
        return allowed if role.break_glass else _NO_BREAK_GLASS
    asks = granted.asks
    return LeaseNeedsApproval(
        tier=allowed.tier, approvers=asks.approvers, quorum=asks.quorum, expires=asks.expires, allowed=allowed
    )


def _allowed(granted: LeaseGranted, role: Role) -> LeaseAllowed:
    secret = granted.allow.secret
    return LeaseAllowed(
        secret=secret.name, role=role.name, tier=secret.tier.name, ttl=granted.ttl, allowed_by=granted.allow.path
    )


def _ask(supposed: SupposedLease) -> LeaseAsk:
    return LeaseAsk(lease="", secret=supposed.secret, ttl=supposed.ttl, key=supposed.encrypt_to)


def _ground(policy: Policy, blocks: BlockIndex, role: Role, supposed: SupposedLease, now: float) -> Ground:
    """Return what the decision looks at; no rule covers a token that is only supposed."""
    claims = _claims(policy, role, supposed, now)
    return Ground(
        policy=policy,
        rules=RuleIndex(),
        blocks=blocks,
        claims=claims,
        kid="",
        task=_task(claims, role, supposed, now),
        now=now,
    )


def _task(claims: AccessClaims, role: Role, supposed: SupposedLease, now: float) -> Task:
    task = lease_task(claims.task, claims, role.limits, now)
    return replace(task, secrets=supposed.ceiling, implicit=supposed.task is None)


def _claims(policy: Policy, role: Role, supposed: SupposedLease, now: float) -> AccessClaims:
    agent, other = supposed.agent, supposed.delegated_by
    return AccessClaims(
        iss="",
        sub=agent.id,
        aud=policy.broker_audience,
        client_id=agent.id,
        iat=int(now),
        exp=int(now),
        jti="",
        scopes=(LEASE_SCOPE,),
        epoch=0,
        task=supposed.task or _NO_TASK,
        role=role.name,
        tier="",
        issuer=agent.issuer,
        inherited=supposed.inherited if other is None else (("role", other.name),),
        jkt=supposed.jkt,
    )
