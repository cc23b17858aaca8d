"""Narrowing: what a policy could grant that the one in its place would not, and which rules cover what is alive of it.

A token says its role, audience, scopes, agents and issuer, but not the line that let its agent in. Where those facts
cannot tell what would be refused from what would not, the selector takes both (``exact`` is false): whoever may still
have a credential asks again and gets it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from itertools import combinations
from typing import Final

from broker.core.lifetime import format_duration
from broker.core.policy.matching import AgentMember, IssuerMember, Member
from broker.core.policy.model import (
    Approval,
    AudienceAllow,
    Delegate,
    IdentityAllow,
    Limits,
    Policy,
    Role,
    ScopeAllow,
    SecretAllow,
)
from broker.core.selector import Fact, Selector, parse_selector
from broker.core.task import DEFAULT_TASK_TTL

MAX_SELECTORS: Final = 16
"""More selectors than this for one role become one for the whole role: every verifier keeps every rule."""

_TIMES: Final = frozenset({"task_ttl", "idle_timeout"})


class Part(StrEnum):
    """What part of a policy became narrower."""

    ROLE = "role"
    AUDIENCE = "audience"
    SCOPE = "scope"
    DETAILS = "details"
    SECRET = "secret"
    IDENTITY = "identity"
    LIFETIME = "lifetime"
    PROOF = "proof"
    ENCRYPTION = "encryption"
    APPROVAL = "approval"
    TASKS = "tasks"
    MEMBER = "member"
    DELEGATION = "delegation"
    LIMIT = "limit"
    ISSUER = "issuer"
    SERVED_BY = "served_by"


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrowing:
    """One thing that became narrower, in words. ``role`` is None for what is about no role.

    ``selector`` covers the live grants that it concerns; None if no fact of a grant tells. ``exact`` says that it
    covers nothing that could still be had.
    """

    part: Part
    text: str
    role: str | None = None
    selector: Selector | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cover:
    """One selector, and everything that became narrower which it covers. See :class:`Narrowing`."""

    selector: Selector | None
    reasons: tuple[str, ...]
    exact: bool


def narrowed(old: Policy, new: Policy) -> tuple[Narrowing, ...]:
    """Return what ``old`` could grant that ``new`` would not, in the order of the policy."""
    found: list[Narrowing] = []
    for role in old.roles.values():
        after = new.roles.get(role.name)
        if after is None:
            found.append(_about(role, Part.ROLE, "is gone", exact=True))
        else:
            found += _role(role, after)
    return (*found, *_issuers(old, new), *_servers(old, new))


def covers(narrowings: Iterable[Narrowing]) -> tuple[Cover, ...]:
    """Return the fewest selectors that cover these narrowings; those that nothing covers come last, in one."""
    chosen: dict[Selector, tuple[list[str], bool]] = {}
    untold: list[str] = []
    for narrowing in _collapsed(list(narrowings)):
        if narrowing.selector is None:
            untold.append(narrowing.text)
            continue
        reasons, exact = chosen.get(narrowing.selector, ([], False))
        chosen[narrowing.selector] = ([*reasons, narrowing.text], exact or narrowing.exact)
    for selector in list(chosen):
        wider = _wider_than(selector, chosen)
        if wider is not None:
            reasons, _ = chosen.pop(selector)
            chosen[wider][0].extend(reasons)
    made = [
        Cover(selector=selector, reasons=tuple(reasons), exact=exact) for selector, (reasons, exact) in chosen.items()
    ]
    return (*made, Cover(selector=None, reasons=tuple(untold), exact=False)) if untold else tuple(made)


def lost_members(before: Iterable[Member], after: Iterable[Member]) -> tuple[Member, ...]:
    """Return the lines of a member list that another one does not make up for."""
    kept = tuple(after)
    return tuple(line for line in before if not _admitted(line, kept))


def stricter(after: Approval | None, before: Approval | None) -> bool:
    """Whether other or more people must agree than before."""
    if after is None:
        return False
    return before is None or after.approvers != before.approvers or after.quorum > before.quorum


def lowered(before: Limits, after: Limits) -> Iterator[tuple[str, str]]:
    """Yield the limits that allow less than before: the name, and both values in words."""
    for name in (field.name for field in fields(Limits) if field.name != "actions"):
        was, now = _limit(before, name), _limit(after, name)
        if now is not None and (was is None or now < was):
            yield name, f"{_amount(name, now)} (was {_amount(name, was)})"
    if after.actions is not None:
        if before.actions is None:
            yield "actions", f"{', '.join(after.actions)} only (was no limit)"
        for name, most in (before.actions or {}).items():
            left = after.actions.get(name, 0)
            if left < most:
                yield f"actions.{name}", f"{left} (was {most})"


def lost_identity(old: IdentityAllow, new: IdentityAllow | None) -> Iterator[tuple[Part, str]]:
    """Yield what identity tokens for an audience could be that they cannot be any more: the part, and in words.

    The word of an operator's claim counts for those who read it, so another one takes the old one away.
    """
    if new is None:
        yield Part.IDENTITY, f"no identity tokens for {old.audience} any more"
        return
    if new.ttl < old.ttl:
        life = f"for {format_duration(new.ttl)} at most (was {format_duration(old.ttl)})"
        yield Part.LIFETIME, f"identity tokens for {old.audience} {life}"
    if new.claims != old.claims or not set(old.groups) <= set(new.groups):
        yield Part.IDENTITY, f"identity tokens for {old.audience} say other claims, or fewer groups"


def lost_secret(old: SecretAllow, new: SecretAllow | None) -> Iterator[tuple[Part, str, bool]]:
    """Yield how a secret can be had less: the part, in words, and whether what was leased cannot be had any more.

    Another place in a backend, or another way to take it from there, makes it another secret.
    """
    if new is None:
        yield Part.SECRET, "is not allowed any more", True
        return
    before, after = old.secret, new.secret
    if (after.backend, after.settings) != (before.backend, before.settings):
        yield Part.SECRET, "is another one", True
    if new.ttl < old.ttl:
        yield Part.LIFETIME, f"is for {format_duration(new.ttl)} at most (was {format_duration(old.ttl)})", False
    if after.tier.proof_required and not before.tier.proof_required:
        yield Part.PROOF, "needs a token that is bound to a key", False
    if after.tier.encrypted and not before.tier.encrypted:
        yield Part.ENCRYPTION, "is only handed out encrypted", False
    if new.asks is not None and stricter(new.asks, old.asks):
        yield Part.APPROVAL, f"needs approval by {new.asks.quorum} of {new.asks.approvers}", False


def _role(old: Role, new: Role) -> Iterator[Narrowing]:
    for line in lost_members(old.members, new.members):
        yield _member(old, line)
    yield from _allowed(old, new)
    for delegate in old.may_delegate_to.values():
        yield from _delegation(old, delegate, new.may_delegate_to.get(delegate.role))
    if new.explicit_tasks and not old.explicit_tasks:
        yield _about(old, Part.TASKS, "every request must name a task that was opened")
    if old.break_glass and not new.break_glass:
        yield from _break_glass(old, new)
    for name, values in lowered(old.limits, new.limits):
        yield replace(_about(old, Part.LIMIT, f"{name} {values}"), selector=None)
    yield from _budget_approval(old, new)


def _allowed(old: Role, new: Role) -> Iterator[Narrowing]:
    """Yield what the lines of ``allow`` give less of."""
    for uri, allow in old.audiences.items():
        after = new.audiences.get(uri)
        if after is None:
            yield _about(old, Part.AUDIENCE, f"nothing at {uri} any more", audience=uri, exact=True)
        else:
            yield from _audience(old, uri, allow, after)
    for name, secret in old.secrets.items():
        for part, text, gone in lost_secret(secret, new.secrets.get(name)):
            yield _about(old, part, f"the secret {name} {text}", secret=name, exact=gone)
    for audience, identity in old.identities.items():
        for part, text in lost_identity(identity, new.identities.get(audience)):
            # Nothing covers what is alive: those who took such a token know no rules, and it ends by itself soon.
            yield replace(_about(old, part, text), selector=None)


def _audience(role: Role, uri: str, old: AudienceAllow, new: AudienceAllow) -> Iterator[Narrowing]:
    for kind in sorted(old.details - new.details):
        yield _about(role, Part.DETAILS, f"no details of type {kind} at {uri} any more", audience=uri)
    for scope, line in old.scopes.items():
        after = new.scopes.get(scope)
        if after is None:
            text = f"no {scope} at {uri} any more"
            yield _about(role, Part.SCOPE, text, audience=uri, scope=scope, exact=True)
            continue
        for part, text in _conditions(line, after):
            yield _about(role, part, f"{scope} at {uri} {text}", audience=uri, scope=scope)


def _conditions(old: ScopeAllow, new: ScopeAllow) -> Iterator[tuple[Part, str]]:
    if new.ttl < old.ttl:
        yield Part.LIFETIME, f"for {format_duration(new.ttl)} at most (was {format_duration(old.ttl)})"
    if new.tier.proof_required and not old.tier.proof_required:
        yield Part.PROOF, "needs proof of possession of a key"
    if new.asks is not None and stricter(new.asks, old.asks):
        yield Part.APPROVAL, f"needs approval by {new.asks.quorum} of {new.asks.approvers}"


def _delegation(role: Role, old: Delegate, new: Delegate | None) -> Iterator[Narrowing]:
    """A delegate's tokens have its own role, and inherit the one that was handed on; a selector names one of them."""
    if new is None:
        lost = [f"may not delegate to {old.role} any more"]
    else:
        terms = (
            ("own_grants", old.own_grants and not new.own_grants),
            ("impersonation", old.impersonation and not new.impersonation),
        )
        lost = [f"delegates to {old.role} without {term} now" for term, gone in terms if gone]
    for text in lost:
        yield replace(_about(role, Part.DELEGATION, text), selector=Selector(role=old.role))


def _member(role: Role, line: Member) -> Narrowing:
    text = f"the member line ({line}) is gone or narrower"
    if isinstance(line, AgentMember):
        return _about(role, Part.MEMBER, text, agent=line.agent, exact=True)
    return _about(role, Part.MEMBER, text, issuer=line.issuer)


def _break_glass(old: Role, new: Role) -> Iterator[Narrowing]:
    text = "no going ahead without approval (break_glass) any more"
    asking = [(uri, scope) for uri, allow in new.audiences.items() for scope, line in allow.scopes.items() if line.asks]
    for uri, scope in asking:
        yield _about(old, Part.APPROVAL, text, audience=uri, scope=scope)
    secrets = [name for name, line in new.secrets.items() if line.asks]
    for name in secrets:
        yield _about(old, Part.APPROVAL, text, secret=name)
    if not asking and not secrets:
        yield replace(_about(old, Part.APPROVAL, text), selector=None)


def _budget_approval(old: Role, new: Role) -> Iterator[Narrowing]:
    before, after = old.budget_approval, new.budget_approval
    if before is None or before == after:
        return
    if after is None or after.adds < before.adds or stricter(after.approval, before.approval):
        yield replace(_about(old, Part.LIMIT, "budgets that are used up are lifted less, or not"), selector=None)


def _issuers(old: Policy, new: Policy) -> Iterator[Narrowing]:
    for name, issuer in old.issuers.items():
        after = new.issuers.get(name)
        if after is None:
            selector = Selector(issuer=name)
            yield Narrowing(part=Part.ISSUER, text=f"the issuer {name} is gone", selector=selector, exact=True)
        elif after != issuer:
            text = f"the issuer {name} is trusted on other terms (to end what it vouched for: revoke the issuer)"
            yield Narrowing(part=Part.ISSUER, text=text)


def _servers(old: Policy, new: Policy) -> Iterator[Narrowing]:
    for uri, audience in old.audiences.items():
        after = new.audiences.get(uri)
        for line in lost_members(audience.served_by, () if after is None else after.served_by):
            yield Narrowing(part=Part.SERVED_BY, text=f"{uri} is not served by ({line}) any more")


def _about(role: Role, part: Part, text: str, *, exact: bool = False, **named: str) -> Narrowing:
    selector = parse_selector({"role": role.name, **named})
    return Narrowing(part=part, text=f"role {role.name}: {text}", role=role.name, selector=selector, exact=exact)


def _admitted(line: Member, lines: tuple[Member, ...]) -> bool:
    """Whether every agent that a line means is meant by one of these lines; False if that cannot be seen."""
    if line in lines:
        return True
    if isinstance(line, AgentMember):
        issuer, slash, _ = line.agent.partition("/")
        return bool(slash) and IssuerMember(issuer) in lines
    return IssuerMember(line.issuer) in lines


def _limit(limits: Limits, name: str) -> int | None:
    value: int | None = getattr(limits, name)
    return DEFAULT_TASK_TTL if name == "task_ttl" and value is None else value


def _amount(name: str, value: int | None) -> str:
    if value is None:
        return "no limit"
    return format_duration(value) if name in _TIMES else str(value)


def _collapsed(narrowings: list[Narrowing]) -> list[Narrowing]:
    """Replace the selectors of each role that has too many of them by one for the role."""
    selectors: defaultdict[str, set[Selector]] = defaultdict(set)
    for each in narrowings:
        if each.role is not None and each.selector is not None:
            selectors[each.role].add(each.selector)
    many = {role for role, found in selectors.items() if len(found) > MAX_SELECTORS}
    return [
        replace(each, selector=Selector(role=each.role), exact=False)
        if each.role in many and each.selector is not None and each.part is not Part.DELEGATION
        else each
        for each in narrowings
    ]


def _wider_than(selector: Selector, chosen: Mapping[Selector, object]) -> Selector | None:
    """Return a selector among those chosen that covers all that this one does, and more."""
    facts: tuple[Fact, ...] = selector.facts()
    for count in range(1, len(facts)):
        for part in combinations(facts, count):
            wider = parse_selector(dict(part))
            if wider in chosen:
                return wider
    return None
