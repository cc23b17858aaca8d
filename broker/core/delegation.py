"""Delegation: what a token that is exchanged (RFC 8693) leaves to the one that comes of it (law 4).

A child is judged by the verified claims of its parent, never by the shape of the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from broker.core.access_token import VerifiedToken
from broker.core.claims import MAX_INHERITED, MAX_PARENTS, AccessClaims
from broker.core.decide import NO_AUDIENCE, Offer, conditions, offered
from broker.core.details import Element, ceilings_at, covers
from broker.core.errors import Code
from broker.core.grant import Ask, Decision, Denied
from broker.core.identity import Agent
from broker.core.policy import Policy, Role
from broker.core.policy.model import Delegate, ScopeAllow
from broker.core.rules import BlockIndex
from broker.core.selector import Fact

NOT_ALLOWED: Final = Denied(Code.DELEGATION_NOT_ALLOWED, "this token may not be handed on to this agent")
_TOO_DEEP: Final = Denied(Code.DELEGATION_TOO_DEEP, "the token was handed on as often as is allowed")
_TOO_MUCH: Final = Denied(Code.DELEGATION_TOO_DEEP, "more came together in this line of tokens than one can hand down")
_OTHER_AUDIENCE: Final = Denied(Code.AUDIENCE_NOT_ALLOWED, "the token to be exchanged is for another resource")
_MORE_SCOPES: Final = Denied(Code.SCOPE_NOT_ALLOWED, "the token to be exchanged does not have all of these scopes")
_NO_SCOPES: Final = Denied(Code.SCOPE_NOT_ALLOWED, "this agent may have nothing of what the token to be exchanged has")
_MORE_DETAILS: Final = Denied(Code.DETAILS_INVALID, "not covered by the details of the token to be exchanged")
_OTHER_DETAILS: Final = Denied(Code.DETAILS_NOT_ALLOWED, "not all through whose hands the token went may have these")
_NO_PROOF: Final = Denied(Code.PROOF_REQUIRED, "the token to be exchanged is bound to a key: prove one of your own")
_ENDING: Final = Denied(Code.SUBJECT_TOKEN_INVALID, "subject_token: the token has expired")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What a token takes over from the one it comes of; see :class:`broker.core.claims.AccessClaims`."""

    sub: str
    agents: tuple[str, ...]
    parents: tuple[str, ...]
    impersonates: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What is decided about an exchange, and the lineage of the token if there is to be one."""

    decision: Decision
    lineage: Lineage


def judge_exchange(
    policy: Policy,
    blocks: BlockIndex,
    parent: VerifiedToken,
    actor: Agent,
    ask: Ask,
    now: float,
    *,
    also: tuple[ScopeAllow, ...] = (),
) -> Exchange:
    """Decide whether ``actor`` gets what it asks for in exchange for ``parent``.

    ``parent`` was checked already: its signature, that it has not expired, that no rule kills it.
    ``also`` are lines of the policy whose conditions count besides those of the child's own role.
    """
    permitted = entitled(policy, parent, actor)
    delegate = permitted if isinstance(permitted, Delegate) else None
    descent = lineage(parent.claims, actor, impersonates=delegate is not None and delegate.impersonation)
    if isinstance(permitted, Denied):
        return Exchange(decision=permitted, lineage=descent)
    offer = obstacle(policy, parent.claims, descent, ask, now) or _offer(policy, parent.claims, delegate, ask)
    if isinstance(offer, Denied):
        return Exchange(decision=offer, lineage=descent)
    granted = replace(offer.granted, ttl=min(offer.granted.ttl, int(parent.claims.exp - now)))
    own = granted.facts(actor, ask)
    # What the token will inherit counts like what it will have itself.
    block = blocks.refusing(own | parent.facts, now)
    if block is not None:
        return Exchange(decision=Denied(Code.BLOCKED, f"blocked by an operator: {block.id}"), lineage=descent)
    if len(_inheritance(parent, own | _kept(parent.claims, descent))) > MAX_INHERITED:
        return Exchange(decision=_TOO_MUCH, lineage=descent)
    return Exchange(decision=conditions(Offer(granted, offer.lines + also), ask), lineage=descent)


def entitled(policy: Policy, parent: VerifiedToken, actor: Agent) -> Delegate | Denied | None:
    """Say as what ``actor`` may exchange the token: as a delegate, or (None) because the token is its own.

    Of the roles that the token's role may delegate to, the first in the order of the policy that has the actor as a
    member counts.
    """
    claims = parent.claims
    mine = policy.roles_of(actor)
    if claims.client_id == actor.id:
        return None if any(role.name == claims.role for role in mine) else NOT_ALLOWED
    if claims.may_act is not None and claims.may_act != actor.id:
        return NOT_ALLOWED
    role = policy.roles.get(claims.role)
    permitted = {} if role is None else role.may_delegate_to
    return next((permitted[other.name] for other in mine if other.name in permitted), NOT_ALLOWED)


def lineage(parent: AccessClaims, actor: Agent, *, impersonates: bool) -> Lineage:
    """Return the lineage of a token for ``actor`` that comes of ``parent``.

    Whoever acts already is not named again. What impersonated once names no actors any more, however it goes on.
    """
    acting = parent.agents[0] if parent.agents else parent.sub
    agents = parent.agents if actor.id == acting else (actor.id, *parent.agents)
    return Lineage(
        sub=parent.sub,
        agents=agents,
        parents=(*parent.parents, parent.jti),
        impersonates=bool(agents) and (impersonates or parent.impersonates),
    )


def finish(claims: AccessClaims, parent: VerifiedToken) -> AccessClaims:
    """Return the claims with every fact of the parent that they do not have themselves, so that they die with it.

    Which key will sign the child is not known yet: the parent's is inherited in any case.
    """
    return replace(claims, inherited=_inheritance(parent, replace(claims, inherited=()).facts("")))


def _inheritance(parent: VerifiedToken, own: frozenset[Fact]) -> tuple[Fact, ...]:
    """Return the facts of the parent that are not the child's own; token ids are handed down as ``parents``."""
    return tuple(sorted(fact for fact in parent.facts - own if fact[0] != "token"))


def _kept(parent: AccessClaims, descent: Lineage) -> frozenset[Fact]:
    """Return the facts that a child has of itself in any case: the agents of the line, and the tasks that it is in."""
    agents = [("agent", agent) for agent in (descent.sub, *descent.agents)]
    return frozenset([*agents, *(("task", task) for task in (parent.task, *parent.path))])


def obstacle(policy: Policy, parent: AccessClaims, descent: Lineage, ask: Ask, now: float) -> Denied | None:
    """Return what about the token to be exchanged itself stands in the way, whatever is asked for."""
    # Every role of the line has its say: else a role could be handed on further through one that allows more.
    origins = [policy.roles.get(name) for name in (parent.role, *_inherited(parent, "role"))]
    depths = [origin.limits.delegation_depth for origin in origins if origin is not None]
    if len(depths) < len(origins):
        return NOT_ALLOWED
    if len(descent.agents) > min(depths) or len(descent.parents) > MAX_PARENTS:
        return _TOO_DEEP
    if parent.jkt is not None and ask.jkt is None:
        return _NO_PROOF
    return _ENDING if int(parent.exp - now) < 1 else None


def _inherited(parent: AccessClaims, name: str) -> list[str]:
    return [value for field, value in parent.inherited if field == name]


def _offer(policy: Policy, parent: AccessClaims, delegate: Delegate | None, ask: Ask) -> Offer | Denied:
    """Return what the role of the child allows: a part of what the parent has, or its own if the policy says so.

    Details bind in both cases: what the policy lets a delegate have of its own are scopes, nothing else.
    """
    role = policy.roles.get(parent.role if delegate is None else delegate.role)
    if role is None:
        return NOT_ALLOWED
    here, there = policy.audiences.get(parent.aud), policy.audiences.get(ask.audience or parent.aud)
    if parent.details and ask.details and not covers(parent.details, ask.details, ceilings_at(here, there)):
        return _MORE_DETAILS
    within = replace(ask, details=ask.details or parent.details or None)  # asking for none of them sheds none
    if delegate is None or not delegate.own_grants:
        return _part(policy, role, parent, within)
    return NO_AUDIENCE if ask.audience is None else offered(policy, role, within)


def _part(policy: Policy, role: Role, parent: AccessClaims, ask: Ask) -> Offer | Denied:
    """Return what is asked for, if the parent has it and the role of the child allows it, too."""
    if ask.audience not in (None, parent.aud):
        return _OTHER_AUDIENCE
    allowed = role.audiences.get(parent.aud)
    if allowed is None:
        return _NO_SCOPES
    scopes = ask.scopes
    if scopes is None:
        scopes = tuple(scope for scope in parent.scopes if scope in allowed.scopes)
    if not scopes:
        return _NO_SCOPES
    if not set(scopes) <= set(parent.scopes):
        return _MORE_SCOPES
    offer = offered(policy, role, replace(ask, audience=parent.aud, scopes=scopes))
    is_new = ask.details and not parent.details and isinstance(offer, Offer)
    return _OTHER_DETAILS if is_new and not _all_may_have(policy, role, parent, ask.details or ()) else offer


def _all_may_have(policy: Policy, role: Role, parent: AccessClaims, details: Sequence[Element]) -> bool:
    """Whether every role that the token was handed down from may have such details, or lets this one use its own.

    A token without details is bounded by its scopes alone, so that details may bound what comes of it; but only those
    that it could have had, since to a resource they may be what lets it do something at all (RFC 9396).
    """
    above = [policy.roles.get(name) for name in {parent.role, *_inherited(parent, "role")} - {role.name}]
    return all(other is not None and _hands_down(other, role, parent.aud, details) for other in above)


def _hands_down(other: Role, role: Role, audience: str, details: Sequence[Element]) -> bool:
    delegate, allowed = other.may_delegate_to.get(role.name), other.audiences.get(audience)
    types = set() if allowed is None else set(allowed.details)
    return (delegate is not None and delegate.own_grants) or {element["type"] for element in details} <= types
