"""Approvals: a person's agreement to exactly one request, bound to a digest of it, used once, ending in a refusal."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from broker.core.policy.matching import AgentMember, Member
from broker.core.rules import RuleIndex
from broker.core.selector import Fact, read_facts

REDEEM_SECONDS: Final = 300
"""Seconds that an approval can be used after the time to decide on it is over."""

POLL_INTERVAL: Final = 2
"""Seconds that a client waits between two questions about its pending request (CIBA ``interval``)."""

TOKEN: Final = "token"
LEASE: Final = "lease"
BUDGET: Final = "budget"
BREAK_GLASS: Final = "break_glass"
KINDS: Final = (TOKEN, LEASE, BUDGET, BREAK_GLASS)
"""What is approved: a token, a lease, more budget for a task, or (afterwards) what was taken without asking."""

PENDING: Final = "pending"
APPROVED: Final = "approved"
DENIED: Final = "denied"
EXPIRED: Final = "expired"
USED: Final = "used"
UNREVIEWED: Final = "unreviewed"
REVIEWED: Final = "reviewed"
STATES: Final = (PENDING, APPROVED, DENIED, EXPIRED, USED, UNREVIEWED, REVIEWED)

_sorted_json: Final = msgspec.json.Encoder(order="sorted")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequest:
    """What a person is asked, as it was asked; nothing here ever changes. Times are Unix seconds.

    ``kind`` is one of :data:`KINDS`. ``digest`` binds it to the request (:func:`request_digest` of ``asked``).
    ``agent`` asks; ``task`` and ``task_owner`` say for whose work (None without a task); ``chain`` are the agents that
    the request was handed through, the one who started it first. ``asked`` is the request in JSON values, as the
    approver sees it. ``quorum`` members of the role ``approvers`` must agree before ``expires_at``; ``reason`` is what
    the agent says (text from outside). ``lifts`` says for a budget by how much which resource is raised.
    """

    id: str
    kind: str
    digest: str
    agent: str
    issuer: str
    role: str
    asked: Mapping[str, Any]
    approvers: str
    quorum: int
    requested_at: float
    expires_at: int
    tier: str | None = None
    task: str | None = None
    task_owner: str | None = None
    purpose: str | None = None
    chain: tuple[str, ...] = ()
    reason: str | None = None
    lifts: tuple[str, int] | None = None

    def facts(self) -> frozenset[Fact]:
        """Return the facts of what was asked: a rule that covers them ends the agreement to it."""
        known = {
            ("issuer", self.issuer),
            ("role", self.role),
            *(("agent", agent) for agent in (self.agent, *self.chain)),
            *(("scope", scope) for scope in self.asked.get("scopes", ())),
        }
        named = {
            "tier": self.tier,
            "task": self.task,
            "token": self.asked.get("subject_token"),
            "key": self.asked.get("key"),
            "audience": self.asked.get("audience"),
            "secret": self.asked.get("secret"),
        }
        return frozenset(known | {(name, value) for name, value in named.items() if value is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """One approver's word. ``role`` is the role under which they spoke, ``epoch`` the epoch at which they did.

    ``token`` has the facts of the token that they came with (:func:`broker.core.selector.facts_text`).
    """

    approver: str
    issuer: str
    role: str
    approve: bool
    reason: str
    at: float
    epoch: int
    token: str | None = None

    def facts(self) -> frozenset[Fact]:
        """Return by what rules find the word: all that its token had, but for the task, which may be over by now."""
        own = {("agent", self.approver), ("issuer", self.issuer), ("role", self.role)}
        return frozenset(own | {fact for fact in read_facts(self.token or "") if fact[0] != "task"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalState:
    """A request and what became of it. ``stored`` is its state leaving time aside."""

    request: ApprovalRequest
    stored: str
    votes: tuple[Vote, ...] = ()
    decided_at: float | None = None
    used_at: float | None = None

    def state(self, now: float) -> str:
        """Return the state at ``now``: what nobody decided on or used in time has expired, which is a refusal."""
        if self.stored == PENDING and self.request.expires_at <= now:
            return EXPIRED
        if self.stored == APPROVED and self.request.expires_at + REDEEM_SECONDS <= now:
            return EXPIRED
        return self.stored


def standing(state: ApprovalState, rules: RuleIndex, members: Iterable[Member]) -> int:
    """Return how many of the votes for a request still count, for the ``members`` that its approvers' role has now.

    A vote counts no more if a rule that came after it covers its approver, the token that they came with, or what was
    asked, or if the approver cannot be a member of the role any more. What an issuer said about an approver is not
    known any more: whoever it vouches for may be a member by a line about that issuer.
    """
    lines, asked = tuple(members), state.request.facts()
    return sum(1 for vote in state.votes if vote.approve and _stands(vote, asked, rules, lines))


def _stands(vote: Vote, asked: frozenset[Fact], rules: RuleIndex, members: tuple[Member, ...]) -> bool:
    if any(rules.killer(facts, vote.epoch) is not None for facts in (vote.facts(), asked)):
        return False
    return may_belong(vote.approver, vote.issuer, members)


def may_belong(agent: str, issuer: str, members: Iterable[Member]) -> bool:
    """Whether an agent can be one of these members, as far as that is known of somebody who came with a token."""
    return any(
        member.agent == agent if isinstance(member, AgentMember) else member.issuer == issuer for member in members
    )


def request_digest(asked: Mapping[str, Any]) -> str:
    """Return the digest that binds an approval to a request: SHA-256 (hex) of its JSON with sorted members."""
    return hashlib.sha256(_sorted_json.encode(asked)).hexdigest()
