"""Widening: what a policy could grant that the one before it would not. A proposal to narrow must come to nothing here.

Roles are tried in the order of the file, and the first that allows a whole request answers. So taking something away
from one role can let a later one answer in its place, and that one may be more generous.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from broker.core.narrowing import lost_identity, lost_members, lost_secret, lowered, narrowed, stricter
from broker.core.policy.matching import AgentMember, Exactly, Member
from broker.core.policy.model import Policy, Role
from broker.core.policy.operator_scopes import LEASE_SCOPE


def broadened(old: Policy, new: Policy) -> tuple[str, ...]:
    """Return, in words, what ``new`` could grant that ``old`` would not; nothing means that it is provably narrower.

    Errs on the side of saying too much. What a schema of authorization details says is not compared.
    """
    more = [f"going back would narrow: {narrowing.text}" for narrowing in narrowed(new, old)]
    common = [name for name in old.roles if name in new.roles]
    if common != [name for name in new.roles if name in old.roles]:
        more.append("the order of the roles is another one")
    for place, role in enumerate(old.roles.values()):
        later = [new.roles[name] for name in list(old.roles)[place + 1 :] if name in new.roles]
        for lines, audience, scope in _losses(role, new.roles.get(role.name)):
            other = answering(role, later, lines, audience, scope)
            if other is not None:
                more.append(f"{other} would answer in the place of {role.name}: {scope} at {audience}")
        more += _delegates(old, new, role)
        more += _defaults(old, new, role)
    return tuple(dict.fromkeys(more))


def answering(role: Role, later: Iterable[Role], lines: Sequence[Member], audience: str, scope: str) -> str | None:
    """Return a later role that would give these members of ``role`` a scope on easier terms than it did, if any."""
    for other in later:
        allowed = other.audiences.get(audience)
        if allowed is None or scope not in allowed.scopes or not may_overlap(lines, other.members):
            continue
        if _is_more_generous(other, role, audience, scope):
            return other.name
    return None


def acting(policy: Policy, delegate: str, lines: Sequence[Member]) -> str | None:
    """Return a role as which these members of a role could act for others, if they could not as members of that one.

    Of the roles that a token may be handed on to, the first that has the agent as a member counts.
    """
    names = list(policy.roles)
    for role in policy.roles.values():
        if delegate not in role.may_delegate_to:
            continue
        for other in role.may_delegate_to:
            if names.index(other) > names.index(delegate) and may_overlap(lines, policy.roles[other].members):
                return other
    return None


def earlier_at(policy: Policy, role: Role, audience: str) -> str | None:
    """Return a role that comes before another one, for some of the same agents, at the same audience."""
    for other in policy.roles.values():
        if other.name == role.name:
            return None
        if audience in other.audiences and may_overlap(role.members, other.members):
            return other.name
    return None


def may_overlap(some: Iterable[Member], others: Iterable[Member]) -> bool:
    """Whether an agent could be meant by both lists; True if that cannot be seen."""
    listed = tuple(others)
    return any(_may_be_same(line, other) for line in some for other in listed)


def _losses(old: Role, new: Role | None) -> Iterator[tuple[Sequence[Member], str, str]]:
    """Yield what a role gave that it does not give any more, as such or only on harder terms: to whom, where, what."""
    lost = old.members if new is None else lost_members(old.members, new.members)
    if new is None or (new.explicit_tasks and not old.explicit_tasks):
        new, lost = None, old.members
    for uri, allow in old.audiences.items():
        after = None if new is None else new.audiences.get(uri)
        for scope, line in allow.scopes.items():
            kept = None if after is None else after.scopes.get(scope)
            if (
                after is None
                or kept is None
                or not allow.details <= after.details
                or (allow.default_scopes and not after.default_scopes)
                or (kept.tier.proof_required and not line.tier.proof_required)
                or stricter(kept.asks, line.asks)
            ):
                yield old.members, uri, scope
            elif lost:
                yield lost, uri, scope


def _delegates(old: Policy, new: Policy, role: Role) -> Iterator[str]:
    """Yield as what else members of a delegate could act for a role that they could act for as that delegate before."""
    after, names = new.roles.get(role.name), list(old.roles)
    left = [] if after is None else [name for name in after.may_delegate_to if name in old.roles and name in new.roles]
    for delegate in role.may_delegate_to:
        lost = old.roles[delegate].members
        if delegate in left:
            lost = lost_members(lost, new.roles[delegate].members)
        for other in left:
            if names.index(other) > names.index(delegate) and may_overlap(lost, new.roles[other].members):
                yield f"members of {delegate} could act for {role.name} as {other}"


def _defaults(old: Policy, new: Policy, role: Role) -> Iterator[str]:
    """Yield where a request that names no scopes could get from a role what an earlier one answers if it names them."""
    after = new.roles.get(role.name)
    for uri, allow in after.audiences.items() if after is not None else ():
        before = role.audiences.get(uri)
        if allow.default_scopes and before is not None and allow.default_scopes != before.default_scopes:
            earlier = earlier_at(old, role, uri)
            if earlier is not None:
                yield f"{role.name} would answer in the place of {earlier}: default scopes at {uri}"


def _is_more_generous(other: Role, role: Role, audience: str, scope: str) -> bool:
    """Whether one role could give a request with this scope more than another one that allows all of it, too."""
    theirs, mine = other.audiences[audience], role.audiences[audience]
    both = [(theirs.scopes[name], mine.scopes[name]) for name in mine.scopes if name in theirs.scopes]
    return (
        theirs.scopes[scope].ttl > min(line.ttl for _, line in both)
        or any(allowed.asks is not None and stricter(line.asks, allowed.asks) for allowed, line in both)
        or not theirs.details <= mine.details
        or any(lowered(other.limits, role.limits))
        or (other.break_glass and not role.break_glass)
        or (other.budget_approval is not None and other.budget_approval != role.budget_approval)
        or any(role.may_delegate_to.get(name) != delegate for name, delegate in other.may_delegate_to.items())
        or any(any(lost_identity(line, role.identities.get(name))) for name, line in other.identities.items())
        or (scope == LEASE_SCOPE and _has_more_secrets(other, role))
    )


def _has_more_secrets(other: Role, role: Role) -> bool:
    """Whether leases could be taken with a token of one role that could not be, or not so easily, with one of another.

    The role of the token decides, and a request that loses its role may get a token of the other one.
    """
    return any(any(lost_secret(line, role.secrets.get(name))) for name, line in other.secrets.items())


def _may_be_same(line: Member, other: Member) -> bool:
    if isinstance(line, AgentMember):
        if isinstance(other, AgentMember):
            return line.agent == other.agent
        return line.agent.startswith(f"{other.issuer}/")
    if isinstance(other, AgentMember):
        return _may_be_same(other, line)
    if isinstance(line.subject, Exactly) and isinstance(other.subject, Exactly) and line.subject != other.subject:
        return False
    return line.issuer == other.issuer
