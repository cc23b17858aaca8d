"""The decision on an identity token: may the holder of this token prove to others who it is? Default deny; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from broker.core.access_token import VerifiedToken
from broker.core.bounds import revoking, unopened
from broker.core.claims import AccessClaims
from broker.core.decide import NO_AUDIENCE
from broker.core.delegation import NOT_ALLOWED, Lineage, entitled, lineage, obstacle
from broker.core.errors import Code
from broker.core.grant import Ask, Denied
from broker.core.identity import Agent
from broker.core.identity_token import OWN_SUBJECT
from broker.core.policy import Policy, Role
from broker.core.policy.model import Delegate, IdentityAllow
from broker.core.policy.operator_scopes import IDENTITY_SCOPE
from broker.core.rules import BlockIndex, RuleIndex
from broker.core.selector import Fact
from broker.core.task import Task

_NOT_FOR_THIS: Final = Denied(
    Code.SUBJECT_TOKEN_INVALID, f"subject_token: must be for the broker's own API, with the scope {IDENTITY_SCOPE}"
)
_DETAILS: Final = Denied(
    Code.DETAILS_NOT_ALLOWED, "an identity token cannot say what the details of the token to be exchanged say"
)
_NOT_HERE: Final = Denied(Code.AUDIENCE_NOT_ALLOWED, "no identity tokens for this audience are allowed to this agent")
_OUR_NAME: Final = Denied(Code.AUDIENCE_NOT_ALLOWED, f"the name {OWN_SUBJECT} is the broker's own")
_NO_TASK: Final = Denied(Code.TASK_NOT_OPEN, "there is no such task, or it is not open, or it is not this agent's")
_CEILING: Final = Denied(Code.TASK_CEILING, "the task was opened for less than this")


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityGranted:
    """The policy allows it: by the line ``allow`` of ``role``, for ``ttl`` seconds. ``facts`` are for the record."""

    role: Role
    allow: IdentityAllow
    ttl: int
    lineage: Lineage
    facts: frozenset[Fact]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityGround:
    """What the decision looks at, all of it as of one moment. ``now`` is Unix seconds.

    ``parent`` is the token to be exchanged, which was checked already; ``task`` is what the identity token belongs to.
    """

    policy: Policy
    rules: RuleIndex
    blocks: BlockIndex
    parent: VerifiedToken
    task: Task
    now: float


def decide_identity(ground: IdentityGround, actor: Agent, ask: Ask) -> IdentityGranted | Denied:
    """Decide whether ``actor`` gets an identity token for ``ask.audience``.

    Only a token for the broker's own API that has the scope for it can be exchanged. So whoever hands on a token, or
    opens a task, for something else has not handed on the agent's identity with it.
    """
    policy, parent, now = ground.policy, ground.parent.claims, ground.now
    if ask.audience is None:
        return NO_AUDIENCE
    permitted = entitled(policy, ground.parent, actor)
    if isinstance(permitted, Denied):
        return permitted
    descent = lineage(parent, actor, impersonates=permitted is not None and permitted.impersonation)
    denied = _unfit(policy, parent) or obstacle(policy, parent, descent, ask, now) or _not_by_name(descent, actor)
    allowed = denied or _line(policy, parent, permitted, ask.audience)
    if isinstance(allowed, Denied):
        return allowed
    role, allow = allowed
    facts = _facts(ground, actor, ask, role, descent)
    standing = unopened(role, ground.task) or _standing(ground, facts)
    if standing is not None:
        return standing
    ttl = min(allow.ttl, int(parent.exp - now), int(ground.task.deadline - now))
    return _NO_TASK if ttl < 1 else IdentityGranted(role=role, allow=allow, ttl=ttl, lineage=descent, facts=facts)


def _unfit(policy: Policy, parent: AccessClaims) -> Denied | None:
    """Return why a token cannot be exchanged for an identity token, whoever asks."""
    if parent.aud != policy.broker_audience or IDENTITY_SCOPE not in parent.scopes:
        return _NOT_FOR_THIS
    return _DETAILS if parent.details else None


def _not_by_name(descent: Lineage, actor: Agent) -> Denied | None:
    """Return why nobody may be named in an identity token: who has the broker's own name could pass for the broker."""
    return _OUR_NAME if OWN_SUBJECT in (descent.sub, actor.id, *descent.agents) else None


def _line(
    policy: Policy, parent: AccessClaims, delegate: Delegate | None, audience: str
) -> tuple[Role, IdentityAllow] | Denied:
    """Return the line that allows the audience, by the role of the agent that acts.

    Every role that the token was handed down from must allow it too, or let the next one use what it has of its own.
    """
    role = policy.roles.get(parent.role if delegate is None else delegate.role)
    if role is None:
        return NOT_ALLOWED
    allow = role.identities.get(audience)
    above = {parent.role, *(value for name, value in parent.inherited if name == "role")} - {role.name}
    if allow is None or not all(_hands_down(policy, other, role, audience) for other in above):
        return _NOT_HERE
    return role, allow


def _hands_down(policy: Policy, above: str, role: Role, audience: str) -> bool:
    other = policy.roles.get(above)
    if other is None:
        return False
    delegate = other.may_delegate_to.get(role.name)
    return audience in other.identities or (delegate is not None and delegate.own_grants)


def _standing(ground: IdentityGround, facts: frozenset[Fact]) -> Denied | None:
    """Return why nothing may be granted any more: the task, a rule about it, or a block."""
    task = ground.task
    if revoking(ground.rules, (task.id, *task.path)) is not None:
        return _NO_TASK
    if not task.allows(ground.policy.broker_audience, (IDENTITY_SCOPE,)):
        return _CEILING
    block = ground.blocks.refusing(facts, ground.now)
    return None if block is None else Denied(Code.BLOCKED, f"blocked by an operator: {block.id}")


def _facts(ground: IdentityGround, actor: Agent, ask: Ask, role: Role, descent: Lineage) -> frozenset[Fact]:
    """Return the facts of an identity token to be: its own, and all of the token that it comes of."""
    task = ground.task
    own = {
        *(("agent", agent) for agent in (descent.sub, actor.id, *descent.agents)),
        *(("task", each) for each in (task.id, *task.path)),
        *((("key", ask.jkt),) if ask.jkt is not None else ()),
        ("audience", ask.audience or ""),
        ("issuer", actor.issuer),
        ("role", role.name),
    }
    return ground.parent.facts | own
