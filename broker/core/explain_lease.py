"""Explaining a decision on a lease: which role the token is of, what each role says to the secret, what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from broker.core.errors import Code
from broker.core.explain import Explanation, RoleExplanation, membership
from broker.core.grant import Denied, Granted, NeedsApproval
from broker.core.identity import Agent
from broker.core.lifetime import format_duration
from broker.core.policy import Policy, Role
from broker.core.policy.model import SecretAllow
from broker.core.policy.operator_scopes import LEASE_SCOPE
from broker.core.rules import BlockIndex
from broker.core.selector import read_facts
from broker.core.supposing import suppose
from broker.core.supposing_leases import (
    LeaseNeedsApproval,
    LeaseVerdict,
    SupposedLease,
    judge_lease,
    suppose_lease,
    token_for,
)


def explain_lease(policy: Policy, blocks: BlockIndex, supposed: SupposedLease, now: float) -> Explanation:
    """Explain what :func:`broker.core.supposing_leases.suppose_lease` says to the same arguments, and why."""
    decision = suppose_lease(policy, blocks, supposed, now)
    notes = tuple(_notes(policy, blocks, supposed, now))
    if supposed.role is not None:
        known = policy.roles.get(supposed.role)
        said = () if known is None else (_said(policy, known, supposed, decision, ()),)
        return Explanation(decision, notes, said)
    mine = {role.name for role in policy.roles_of(supposed.agent)}
    roles = [_role(policy, blocks, role, supposed, now, member=role.name in mine) for role in policy.roles.values()]
    return Explanation(decision, notes, tuple(roles))


def recorded_lease(members: Mapping[str, Any], token: Mapping[str, Any] | None) -> SupposedLease:
    """Return the request of a ``lease.refused`` entry of the ledger, from its decoded members.

    ``token`` are those of the entry of the token that it came with, if that is known. Raises ``ValueError`` if the
    entry does not say who asked for what.
    """
    agent, issuer, secret, role = (members.get(name) for name in ("agent", "issuer", "secret", "role"))
    if not (isinstance(agent, str) and isinstance(issuer, str) and isinstance(secret, str) and isinstance(role, str)):
        raise ValueError("the entry does not record a request for a lease")  # noqa: TRY004 - the entry's fault
    lineage = None if token is None else token.get("lineage")
    return SupposedLease(
        agent=Agent(agent, issuer, agent),
        secret=secret,
        ttl=members.get("ttl"),
        jkt=members.get("bound_key"),
        encrypt_to=members.get("encrypt_to"),
        role=role,
        inherited=tuple(sorted(read_facts(lineage))) if isinstance(lineage, str) else (),
    )


def _notes(policy: Policy, blocks: BlockIndex, supposed: SupposedLease, now: float) -> Iterator[str]:
    secret = policy.secrets.get(supposed.secret)
    if secret is None:
        yield f"the policy does not know the secret {supposed.secret}"
    else:
        yield f"the secret {secret.name} is taken from {secret.backend}"
    if supposed.role is not None:
        yield f"the token that it came with is of role {supposed.role}"
    else:
        yield _answering(policy, blocks, supposed, now)
    for other in _above(supposed):
        yield from _hands_down(policy, other, supposed)
    if supposed.ceiling is not None and supposed.secret not in supposed.ceiling:
        yield f"the task was opened for other secrets: {', '.join(supposed.ceiling)}"


def _answering(policy: Policy, blocks: BlockIndex, supposed: SupposedLease, now: float) -> str:
    """Say of which role the token would be that the agent takes leases with."""
    how = "" if supposed.delegated_by is None else f", in exchange for one of role {supposed.delegated_by.name},"
    token = suppose(policy, blocks, token_for(policy, supposed), now)
    match token:
        case Granted():
            return f"a token{how} with {LEASE_SCOPE} is of role {token.role}, which therefore decides"
        case NeedsApproval():
            by = f"{token.quorum} of role {token.approvers}"
            return f"a token{how} with {LEASE_SCOPE} is of role {token.granted.role}, and needs approval by {by} itself"
        case Denied(code, reason):
            return f"there is no token{how} with {LEASE_SCOPE} at the broker's API for it ({code.value}): {reason}"


def _above(supposed: SupposedLease) -> tuple[str, ...]:
    """Return the roles of the tokens that the one of the request comes of."""
    if supposed.delegated_by is not None:
        return (supposed.delegated_by.name,)
    return tuple(value for name, value in supposed.inherited if name == "role" and value != supposed.role)


def _hands_down(policy: Policy, name: str, supposed: SupposedLease) -> Iterator[str]:
    role = policy.roles.get(name)
    if role is None:
        yield f"the token comes of one of role {name}, which the policy does not have any more"
    elif supposed.secret in role.secrets:
        yield f"role {name}, which the token comes of, allows the secret, too"
    else:
        yield f"role {name}, which the token comes of, does not: only a delegate with own_grants has its own secrets"


def _role(
    policy: Policy, blocks: BlockIndex, role: Role, supposed: SupposedLease, now: float, *, member: bool
) -> RoleExplanation:
    members = tuple(membership(role, supposed.agent))
    if not member:
        return RoleExplanation(role.name, member, members, None)
    return _said(policy, role, supposed, judge_lease(policy, blocks, role, supposed, now), members)


def _said(
    policy: Policy, role: Role, supposed: SupposedLease, verdict: LeaseVerdict, members: tuple[str, ...]
) -> RoleExplanation:
    lines = (*members, *_token(policy, role), *_terms(role, supposed), *_blocked(verdict), *_way_out(role, verdict))
    return RoleExplanation(role.name, member=True, lines=lines, verdict=verdict)


def _token(policy: Policy, role: Role) -> Iterator[str]:
    allowed = role.audiences.get(policy.broker_audience)
    line = None if allowed is None else allowed.scopes.get(LEASE_SCOPE)
    if line is None:
        yield f"it does not allow {LEASE_SCOPE} at the broker's API, with which leases are taken"
    else:
        yield f"{LEASE_SCOPE}: allowed by {line.path}"


def _terms(role: Role, supposed: SupposedLease) -> Iterator[str]:
    """Say on which terms the secret is allowed, and which of them the request does not meet."""
    allow = role.secrets.get(supposed.secret)
    if allow is None:
        yield f"{supposed.secret}: is not allowed here"
        return
    yield f"{supposed.secret}: {', '.join(_conditions(allow, supposed))}"
    if role.explicit_tasks:
        named = "one is named" if supposed.task is not None else "none is named"
        yield f"its work belongs to tasks that were opened ({named})"


def _conditions(allow: SecretAllow, supposed: SupposedLease) -> Iterator[str]:
    tier = allow.secret.tier
    yield f"allowed by {allow.path}, tier {tier.name}, for {format_duration(allow.ttl)} at most"
    if tier.proof_required:
        yield f"with a token that is bound to a key ({'it is' if supposed.jkt is not None else 'it is not'})"
    if tier.encrypted:
        yield f"encrypted to a key of the agent's ({'named' if supposed.encrypt_to is not None else 'none is named'})"
    if allow.asks is not None:
        whose = "" if allow.approval is None else ", which the line asks for"
        yield f"after approval by {allow.asks.quorum} of role {allow.asks.approvers}{whose}"


def _blocked(verdict: LeaseVerdict) -> Iterator[str]:
    if isinstance(verdict, Denied) and verdict.code is Code.BLOCKED:
        yield f"a block covers it ({verdict.reason}); broker blocks list says what it refuses, and why"


def _way_out(role: Role, verdict: LeaseVerdict) -> Iterator[str]:
    if role.break_glass and isinstance(verdict, LeaseNeedsApproval):
        yield "it may go ahead without approval by giving a reason (break_glass), which is reviewed afterwards"
