"""The decision: may this agent have what it asks for? Default deny; a pure function of its arguments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from broker.core.details import check_details
from broker.core.errors import Code
from broker.core.grant import Ask, Decision, Denied, Granted, NeedsApproval
from broker.core.identity import Agent
from broker.core.policy import Policy, Role
from broker.core.policy.model import ScopeAllow
from broker.core.rules import BlockIndex

# The later in this list, the further a request got, and the more its denial says.
_SPECIFICITY: Final = {
    code: rank
    for rank, code in enumerate(
        (
            Code.NO_ROLE,
            Code.AUDIENCE_REQUIRED,
            Code.AUDIENCE_NOT_ALLOWED,
            Code.SCOPE_REQUIRED,
            Code.SCOPE_NOT_ALLOWED,
            Code.DETAILS_NOT_SUPPORTED,
            Code.DETAILS_NOT_ALLOWED,
            Code.DETAILS_INVALID,
            Code.TASK_REQUIRED,
            Code.PROOF_REQUIRED,
            Code.APPROVAL_AMBIGUOUS,
            Code.BLOCKED,
        )
    )
}

_NAMED: Final = 8
"""How many scopes a reason names."""

NO_AUDIENCE: Final = Denied(Code.AUDIENCE_REQUIRED, "name the audience that the token is for")
NO_ROLE: Final = Denied(Code.NO_ROLE, "no role of the policy has this agent as a member")
_NOT_HERE: Final = Denied(Code.AUDIENCE_NOT_ALLOWED, "no role of this agent allows this audience")
_TWO_KINDS_OF_APPROVERS: Final = Denied(
    Code.APPROVAL_AMBIGUOUS, "different people must approve these scopes: ask for them one by one"
)
_NO_TASK: Final = Denied(Code.TASK_REQUIRED, "this role asks for a task: open one, and name it with task=")
_NO_SCOPE: Final = Denied(Code.SCOPE_REQUIRED, "name the scopes: there are no default scopes for this audience")


def decide(policy: Policy, blocks: BlockIndex, agent: Agent, ask: Ask, now: float) -> Decision:
    """Decide one request at ``now`` (Unix seconds, for blocks that end).

    The first role in the order of the file that allows *all* of the ask wins; what several roles allow is never added
    up. If none does, needing an approval goes before a denial, and of denials the most specific one is returned.
    """
    if ask.audience is None:
        return NO_AUDIENCE
    return settle(ask, (judge(policy, role, blocks, agent, ask, now) for role in policy.roles_of(agent)))


def settle(ask: Ask, verdicts: Iterable[Decision]) -> Decision:
    """Return the decision that the verdicts of an agent's roles, in their order, come to."""
    best: Decision = NO_ROLE
    missing: list[str] = []
    for verdict in verdicts:
        match verdict:
            case Granted():
                return verdict
            case NeedsApproval():
                best = best if isinstance(best, NeedsApproval) else verdict
            case Denied():
                if verdict.code is Code.SCOPE_NOT_ALLOWED:
                    missing.append(verdict.reason)
                if isinstance(best, Denied) and _SPECIFICITY[verdict.code] > _SPECIFICITY[best.code]:
                    best = verdict
    if isinstance(best, Denied) and best.code is Code.SCOPE_NOT_ALLOWED and len(set(missing)) > 1:
        return replace(best, reason="no single role of this agent allows all of these scopes: " + _listed(ask.scopes))
    return best


@dataclass(frozen=True, slots=True)
class Offer:
    """What a role allows, before blocks and the conditions of tiers; ``lines`` are the policy's, one for each scope."""

    granted: Granted
    lines: tuple[ScopeAllow, ...]


def judge(policy: Policy, role: Role, blocks: BlockIndex, agent: Agent, ask: Ask, now: float) -> Decision:
    """Return what one role, which has ``agent`` as a member, says to an ask."""
    offer = offered(policy, role, ask)
    if isinstance(offer, Denied):
        return offer
    if role.explicit_tasks and ask.task is None:
        return _NO_TASK
    block = blocks.refusing(offer.granted.facts(agent, ask), now)
    if block is not None:
        return Denied(Code.BLOCKED, f"blocked by an operator: {block.id}")
    return conditions(offer, ask)


def offered(policy: Policy, role: Role, ask: Ask) -> Offer | Denied:
    """Return what a role allows if it allows all that is asked for, or why not."""
    allowed = role.audiences.get(ask.audience or "")
    if allowed is None:
        return _NOT_HERE
    scopes = allowed.default_scopes if ask.scopes is None else ask.scopes
    if not scopes:
        return _NO_SCOPE
    missing = [scope for scope in scopes if scope not in allowed.scopes]
    if missing:
        return Denied(Code.SCOPE_NOT_ALLOWED, "not allowed to this agent: " + _listed(missing))
    if ask.details is not None:
        unfit = check_details(policy.audiences[ask.audience or ""], allowed, ask.details)
        if unfit is not None:
            return unfit
    lines = tuple([allowed.scopes[scope] for scope in scopes])
    granted = Granted(
        role=role.name,
        audience=ask.audience or "",
        scopes=scopes,
        tier=max([line.tier for line in lines], key=lambda tier: tier.rank).name,
        ttl=min([line.ttl for line in lines]),
        allowed_by=", ".join(dict.fromkeys([line.path for line in lines])),
        agent_per_minute=role.limits.tokens_per_minute,
        role_per_minute=role.limits.role_tokens_per_minute,
        details=ask.details or (),
    )
    return Offer(granted, lines)


def conditions(offer: Offer, ask: Ask) -> Decision:
    """Return what is still missing for a grant, if anything.

    Every line among the scopes is asked, not only that of the highest tier: a condition cannot be shed by asking for
    more.
    """
    if ask.jkt is None and any(line.tier.proof_required for line in offer.lines):
        return Denied(Code.PROOF_REQUIRED, "these scopes need a DPoP proof of possession of a key (RFC 9449)")
    asking = [line for line in offer.lines if line.asks is not None]
    approvals = [line.asks for line in asking if line.asks is not None]
    if not approvals:
        return offer.granted
    if len({approval.approvers for approval in approvals}) > 1:
        return _TWO_KINDS_OF_APPROVERS
    return NeedsApproval(
        max(asking, key=lambda line: line.tier.rank).tier.name,
        approvals[0].approvers,
        max(approval.quorum for approval in approvals),
        min(approval.expires for approval in approvals),
        offer.granted,
    )


def _listed(scopes: Iterable[str] | None) -> str:
    """Name a request's own scopes; a long list is cut, so that the text stays short."""
    names = list(scopes or ())
    more = len(names) - _NAMED
    return " ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
