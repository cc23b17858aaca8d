"""What is asked for, what is decided, and what is granted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from broker.core.errors import Code
from broker.core.identity import Agent
from broker.core.selector import Fact


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request for a token, parsed but not judged.

    ``audience`` is the exact resource that was named (or None); ``scopes`` is None when the request named none, else
    the requested scopes, sorted, each well-formed; ``task`` the task id the caller gave; ``jkt`` the thumbprint of the
    key whose possession was proved with the request (RFC 9449), or None. ``details`` are the ``authorization_details``
    (RFC 9396) that were asked for, None if there were none; ``may_act`` names the only agent that the token may be
    handed on to.
    """

    audience: str | None
    scopes: tuple[str, ...] | None
    task: str | None = None
    jkt: str | None = None
    details: tuple[Mapping[str, Any], ...] | None = None
    may_act: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """The policy allows it: under which role and tier, for how long (seconds), by which line of the policy.

    ``allowed_by`` is the path of that line in the policy file, such as ``roles.support-triage.allow[0]``.
    ``agent_per_minute`` and ``role_per_minute`` are the most tokens in any 60 seconds (None: no limit of that kind).
    """

    role: str
    audience: str
    scopes: tuple[str, ...]
    tier: str
    ttl: int
    allowed_by: str
    agent_per_minute: int | None = None
    role_per_minute: int | None = None
    details: tuple[Mapping[str, Any], ...] = ()

    def facts(self, agent: Agent, ask: Ask) -> frozenset[Fact]:
        """Return the facts of the credential to be, for blocks to look at (its token id is not known yet)."""
        return frozenset(
            {
                *(("scope", scope) for scope in self.scopes),
                *((("task", ask.task),) if ask.task is not None else ()),
                *((("key", ask.jkt),) if ask.jkt is not None else ()),
                ("agent", agent.id),
                ("issuer", agent.issuer),
                ("role", self.role),
                ("audience", self.audience),
                ("tier", self.tier),
            }
        )


@dataclass(frozen=True, slots=True)
class Denied:
    """The policy does not allow it. ``reason`` is public text about this caller's own request only."""

    code: Code
    reason: str


@dataclass(frozen=True, slots=True)
class NeedsApproval:
    """A person must approve first: ``quorum`` members of the role ``approvers`` within ``expires`` seconds.

    ``granted`` is what the approval would be for. ``tier`` is the most sensitive one that asks.
    """

    tier: str
    approvers: str
    quorum: int
    expires: int
    granted: Granted


Decision = Granted | Denied | NeedsApproval
