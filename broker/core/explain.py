"""Explaining a decision: what every role says to an ask, line by line, in plain words, for the operator's eyes.

The verdicts are those of the decision itself, so an explanation cannot differ from the decision. Unlike a
denial's reason it speaks of the whole policy: it is never sent to the agent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from broker.core.decide import judge, offered
from broker.core.grant import Ask, Decision, Denied, Granted, NeedsApproval
from broker.core.identity import Agent, Attribute
from broker.core.lifetime import format_duration
from broker.core.policy import Policy, Role
from broker.core.policy.compile_details import BUILT_IN
from broker.core.policy.document import path_of
from broker.core.policy.model import AudienceAllow, ScopeAllow
from broker.core.rules import BlockIndex
from broker.core.supposing import Supposed, delegate_of, suppose
from broker.core.supposing_leases import LeaseAllowed, LeaseNeedsApproval, LeaseVerdict

Verdict = Decision | LeaseVerdict
"""A decision on a token, or on a lease."""


@dataclass(frozen=True, slots=True)
class RoleExplanation:
    """What one role says. ``verdict`` is None if the agent is no member, or the ask names no audience."""

    role: str
    member: bool
    lines: tuple[str, ...]
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decision, what is said about the ask as such, and what each role says in the order of the file."""

    decision: Verdict
    notes: tuple[str, ...]
    roles: tuple[RoleExplanation, ...]

    def lines(self) -> list[str]:
        """Return the explanation as text, the outcome first."""
        text = [outcome(self.decision), *self.notes]
        for role in self.roles:
            text += [f"role {role.role}: {_summary(role)}", *(f"  {line}" for line in role.lines)]
        return text


def explain(policy: Policy, blocks: BlockIndex, supposed: Supposed, now: float) -> Explanation:
    """Explain what :func:`broker.core.supposing.suppose` says to the same arguments, and why."""
    agent, ask = supposed.agent, supposed.ask
    mine = {role.name for role in policy.roles_of(agent)}
    decision = suppose(policy, blocks, supposed, now)
    notes = tuple(_notes(policy, supposed))
    if supposed.delegated_by is not None:
        delegate = delegate_of(policy, supposed)
        chosen = None if delegate is None else delegate.role
        handed = [_delegated(role, supposed, decision, mine=mine, chosen=chosen) for role in policy.roles.values()]
        return Explanation(decision, notes, tuple(handed))
    roles = [_role(policy, role, blocks, agent, ask, now, member=role.name in mine) for role in policy.roles.values()]
    return Explanation(decision, notes, tuple(roles))


def outcome(decision: Verdict) -> str:
    """Return a decision in one line."""
    match decision:
        case Granted():
            scopes = " ".join(decision.scopes)
            life = format_duration(decision.ttl)
            return (
                f"granted: {scopes} for {life} in role {decision.role}, tier {decision.tier}, by {decision.allowed_by}"
            )
        case Denied(code, reason):
            return f"denied ({code.value}): {reason}"
        case LeaseAllowed():
            life = format_duration(decision.ttl)
            return (
                f"granted: the secret {decision.secret} for {life} in role {decision.role}, tier {decision.tier}, "
                f"by {decision.allowed_by}"
            )
        case NeedsApproval() | LeaseNeedsApproval():
            people = f"{decision.quorum} of role {decision.approvers} within {format_duration(decision.expires)}"
            return f"needs approval: tier {decision.tier} asks for {people}"


def recorded_request(members: Mapping[str, Any]) -> tuple[Agent, Ask]:
    """Return who asked for what, from the decoded members of a ``token.refused`` entry of the ledger.

    Raises ``ValueError`` if the entry does not say.
    """
    agent, issuer, subject = members.get("agent"), members.get("issuer"), members.get("subject")
    if not isinstance(agent, str) or not isinstance(issuer, str) or not isinstance(subject, str):
        raise ValueError("the entry does not record a token request")  # noqa: TRY004 - the entry's fault, not the code's
    attributes: dict[str, Attribute] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in members.get("attributes", {}).items()
    }
    scope = members.get("scope")
    ask = Ask(
        audience=members.get("audience"),
        scopes=None if scope is None else tuple(scope.split(" ")),
        task=members.get("task"),
        jkt=members.get("bound_key"),
        details=tuple(members.get("details", ())) or None,
    )
    return Agent(agent, issuer, subject, attributes), ask


def _notes(policy: Policy, supposed: Supposed) -> Iterator[str]:
    ask, role = supposed.ask, supposed.delegated_by
    if role is not None:
        yield f"in exchange for a token of role {role.name} with all that this role allows there"
        yield from _terms_of_delegation(policy, supposed)
    audience = policy.audiences.get(ask.audience or "")
    if ask.audience is None:
        return
    if audience is None:
        yield f"the policy does not know the audience {ask.audience}"
        return
    for scope in ask.scopes or ():
        if scope not in audience.scopes:
            yield f"the policy does not know the scope {scope} at {ask.audience}"
    for element in ask.details or ():
        if element["type"] not in (*audience.details, BUILT_IN):
            yield f"the policy does not know details of type {element['type']} at {ask.audience}"


def _terms_of_delegation(policy: Policy, supposed: Supposed) -> Iterator[str]:
    delegate = delegate_of(policy, supposed)
    if delegate is None or supposed.delegated_by is None:
        yield "that role may not delegate to this agent"
        return
    path = path_of(("roles", supposed.delegated_by.name, "may_delegate_to"))
    what = (
        "has what its own role allows" if delegate.own_grants else "has a part of that token which its own role allows"
    )
    shown = ", and is not shown as actor" if delegate.impersonation else ""
    yield f"by {path} it acts in role {delegate.role}, {what}{shown}"


def _delegated(
    role: Role, supposed: Supposed, decision: Decision, *, mine: set[str], chosen: str | None
) -> RoleExplanation:
    """Explain a role to an exchange: only the first that the other role may delegate to has a say."""
    if role.name != chosen:
        return RoleExplanation(role.name, role.name in mine, tuple(membership(role, supposed.agent)), None)
    lines = (*membership(role, supposed.agent), *_allowed(role, supposed.ask), *_way_out(role, decision))
    return RoleExplanation(role.name, member=True, lines=lines, verdict=decision)


def _way_out(role: Role, verdict: Decision) -> Iterator[str]:
    if role.break_glass and isinstance(verdict, NeedsApproval):
        yield "it may go ahead without approval by giving a reason (break_glass), which is reviewed afterwards"


def _role(
    policy: Policy, role: Role, blocks: BlockIndex, agent: Agent, ask: Ask, now: float, *, member: bool
) -> RoleExplanation:
    if not member or ask.audience is None:
        return RoleExplanation(role.name, member, tuple(membership(role, agent)), None)
    verdict = judge(policy, role, blocks, agent, ask, now)
    lines = (
        *membership(role, agent),
        *_allowed(role, ask),
        *_blocked(policy, role, blocks, agent, ask, now),
        *_way_out(role, verdict),
    )
    return RoleExplanation(role.name, member, lines, verdict)


def _summary(role: RoleExplanation) -> str:
    if not role.member:
        return "the agent is not a member"
    return "the agent is a member" if role.verdict is None else outcome(role.verdict)


def membership(role: Role, agent: Agent) -> Iterator[str]:
    """Say of each member line of a role whether it means the agent, and if not why."""
    for place, member in enumerate(role.members):
        why = member.mismatch(agent)
        path = path_of(("roles", role.name, "members", place))
        yield f"{path} ({member}): " + ("matches" if why is None else f"does not match, {why}")


def _allowed(role: Role, ask: Ask) -> Iterator[str]:
    allowed = role.audiences.get(ask.audience or "")
    if allowed is None:
        yield f"allows nothing at {ask.audience}"
        return
    scopes = _asked(allowed, ask)
    if ask.scopes is None:
        defaults = " ".join(scopes)
        yield f"no scope was asked for: the default is {defaults}" if scopes else "no scope was asked for, no default"
    for scope in scopes:
        line = allowed.scopes.get(scope)
        yield f"{scope}: is not allowed here" if line is None else f"{scope}: {_terms(line, ask)}"
    for element in ask.details or ():
        name = element["type"]
        yield f"details of type {name}: " + ("allowed here" if name in allowed.details else "not allowed here")


def _asked(allowed: AudienceAllow, ask: Ask) -> Sequence[str]:
    return allowed.default_scopes if ask.scopes is None else ask.scopes


def _terms(line: ScopeAllow, ask: Ask) -> str:
    """Say on which terms a scope is allowed."""
    tier = line.tier
    parts = [f"allowed by {line.path}, tier {tier.name}, for {format_duration(line.ttl)} at most"]
    if tier.proof_required:
        shown = "not shown" if ask.jkt is None else "shown"
        parts.append(f"with proof of possession ({shown})")
    if line.asks is not None:
        whose = "" if line.approval is None else ", which the line asks for"
        parts.append(f"after approval by {line.asks.quorum} of role {line.asks.approvers}{whose}")
    return ", ".join(parts)


def _blocked(policy: Policy, role: Role, blocks: BlockIndex, agent: Agent, ask: Ask, now: float) -> Iterator[str]:
    offer = offered(policy, role, ask)
    block = None if isinstance(offer, Denied) else blocks.refusing(offer.granted.facts(agent, ask), now)
    if block is not None:
        covers = ", ".join(f"{field} {value}" for field, value in block.selector.facts())
        yield f"block {block.id} by {block.by} covers {covers}: {block.reason}"
