"""Requests that are only supposed: what would be decided, token exchange and break-glass included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from broker.core.access_token import VerifiedToken
from broker.core.claims import AccessClaims
from broker.core.decide import NO_AUDIENCE, decide
from broker.core.delegation import entitled, judge_exchange
from broker.core.errors import Code
from broker.core.grant import Ask, Decision, Denied, NeedsApproval
from broker.core.identity import Agent
from broker.core.policy import Policy, Role
from broker.core.policy.compile_tiers import LONGEST_TTL
from broker.core.policy.model import Delegate
from broker.core.rules import BlockIndex

SOMEBODY: Final = "-"
"""The agent that the token to be exchanged would be of; no agent is called so."""

_NO_BREAK_GLASS: Final = Denied(Code.BREAK_GLASS_NOT_ALLOWED, "this role may not go ahead without approval")


@dataclass(frozen=True, slots=True, kw_only=True)
class Supposed:
    """A request that an agent might make.

    ``delegated_by`` is the role of a token that it would exchange, which has all that this role allows at the audience;
    None for a request in its own name. With ``break_glass`` it gives a reason to go ahead without approval.
    """

    agent: Agent
    ask: Ask
    delegated_by: Role | None = None
    break_glass: bool = False


def suppose(policy: Policy, blocks: BlockIndex, supposed: Supposed, now: float) -> Decision:
    """Decide a request as it would be decided at ``now`` (Unix seconds); budgets and rates are left aside."""
    agent, ask, role = supposed.agent, supposed.ask, supposed.delegated_by
    decision: Decision
    if role is None:
        decision = decide(policy, blocks, agent, ask, now)
    elif ask.audience is None:
        decision = NO_AUDIENCE
    else:
        decision = judge_exchange(policy, blocks, _token(role, ask, now), agent, ask, now).decision
    if supposed.break_glass and isinstance(decision, NeedsApproval):
        return decision.granted if policy.roles[decision.granted.role].break_glass else _NO_BREAK_GLASS
    return decision


def delegate_of(policy: Policy, supposed: Supposed) -> Delegate | None:
    """Return as what the agent would exchange the token; None if it may not."""
    if supposed.delegated_by is None:
        return None
    found = entitled(policy, _token(supposed.delegated_by, supposed.ask, 0), supposed.agent)
    return found if isinstance(found, Delegate) else None


def _token(role: Role, ask: Ask, now: float) -> VerifiedToken:
    """Return a token with all that a role allows at the audience that is asked for."""
    allowed = role.audiences.get(ask.audience or "")
    lines = {} if allowed is None else allowed.scopes
    wanted = [lines[scope].ttl for scope in ask.scopes or lines if scope in lines]
    claims = AccessClaims(
        iss="",
        sub=SOMEBODY,
        aud="" if allowed is None else ask.audience or "",
        client_id=SOMEBODY,
        iat=int(now),
        exp=int(now) + min(wanted, default=LONGEST_TTL),
        jti="",
        scopes=tuple(sorted(lines)),
        epoch=0,
        task="",
        role=role.name,
        tier="",
        issuer="",
    )
    return VerifiedToken(claims, "", frozenset({("role", role.name)}))
