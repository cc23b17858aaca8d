"""Approvals: what people are asked, what they are shown of it, and what they decide."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from broker.core.action import ActionState
from broker.core.approval import APPROVED, DENIED, PENDING, STATES, ApprovalRequest, ApprovalState, Vote, may_belong
from broker.core.change import ApprovalPending, CastVote, Change, EpochIs, Guard, Review, Unreviewed, Write
from broker.core.entry import Entry, Kind, entry
from broker.core.errors import BrokerError, Code, EpochMoved, Malformed, Refused, Unavailable
from broker.core.policy import Policy
from broker.core.policy.matching import AgentMember
from broker.core.revoking import check_text
from broker.core.selector import facts_text
from broker.core.tally import Places
from broker.core.task import TaskState
from broker.ports import Admitted, Caller, Clock, Ledger, Meter, Notifier, Record, Records, Revocations

APPROVE: Final = "approve"
DENY: Final = "deny"
REVIEW: Final = "review"
DECISIONS: Final = (APPROVE, DENY, REVIEW)

MAX_ATTEMPTS: Final = 16
RECENT: Final = 10
"""How much of what an agent did before an approver is shown."""

LOOK_SECONDS: Final = 0.25
"""How often a long poll looks for new requests."""

LATER_SECONDS: Final = 5
"""When to come back for whoever cannot be kept waiting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A request with what an approver needs to judge it: the task it is for, and what the agent did before."""

    state: ApprovalState
    task: TaskState | None
    actions: Sequence[ActionState]
    entries: Sequence[Record]


class Approvals:
    """Lists requests, shows them, and takes decisions."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        records: Records,
        policy: Callable[[], Policy],
        revocations: Revocations,
        clock: Clock,
        notifier: Notifier,
        meter: Meter,
    ) -> None:
        """``policy`` returns the one in force, ``revocations`` are the rules in force."""
        self._ledger = ledger
        self._records = records
        self._policy = policy
        self._revocations = revocations
        self._clock = clock
        self._notifier = notifier
        self._meter = meter
        self._places = Places()

    async def announce_waiting(self) -> None:
        """Tell people again of everything that waits for them: for the start, when they may have missed it."""
        for state in await self._records.approvals(stored=PENDING, limit=1000):
            if state.state(self._clock.now()) == PENDING:
                self._notifier.approval(state, "requested")

    async def list(
        self, wanted: str, *, before: str | None = None, limit: int = 100, wait: float = 0, by: str = ""
    ) -> Sequence[ApprovalState]:
        """Return requests in a state, the youngest first; ``all`` is any state.

        With ``wait`` (seconds) it returns as soon as there are any that are younger than ``before`` says, or at the end
        of the time: then ``before`` is the id after which new ones are waited for, and ``by`` is who waits. Raises
        ``Unavailable`` (``OVERLOADED``) where too many wait.
        """
        if wanted not in (*STATES, "all"):
            raise Malformed(f"state: must be all or one of {', '.join(STATES)}")
        if not wait:
            return await self._page(wanted, before, limit)
        with self._places.taking(by) as has_place:
            if not has_place:
                raise Unavailable(Code.OVERLOADED, "too many wait already: ask again later", retry_after=LATER_SECONDS)
            return await self._newer(wanted, before, limit, int(wait / LOOK_SECONDS))

    async def show(self, approval_id: str) -> Shown:
        """Return a request and what is known about it. Raises ``BrokerError`` (``NOT_FOUND``)."""
        state = await self._found(approval_id)
        request = state.request
        return Shown(
            state=state,
            task=None if request.task is None else await self._records.task(request.task),
            actions=await self._records.actions(agent=request.agent, limit=RECENT),
            entries=await self._records.recent(request.agent, limit=RECENT),
        )

    async def decide(self, approval_id: str, decision: str, reason: str, by: Admitted, caller: Caller) -> ApprovalState:
        """Take an approver's word, durably, and return what the request has become.

        Raises ``Refused`` (``NOT_AN_APPROVER``) for whoever may not decide on this request, ``GuardFailed`` when there
        is nothing to decide any more, ``BrokerError`` (``NOT_FOUND``).
        """
        if decision not in DECISIONS:
            raise Malformed(f"decision: must be one of {', '.join(DECISIONS)}")
        check_text("reason", reason)
        for _ in range(MAX_ATTEMPTS):
            state = await self._found(approval_id)
            owners, now = await self._owners(state.request), self._clock.now()
            self._check_entitled(state, owners, by)
            self._check_alive(by)
            vote = self._vote(by, decision, reason, now)
            try:
                await self._ledger.commit(_decision(state, vote, decision, caller))
            except EpochMoved:
                continue
            return await self._told(approval_id, decision)
        busy = "revocations are being made faster than this can be decided; try again"
        raise Unavailable(Code.OVERLOADED, busy, retry_after=1)

    async def _told(self, approval_id: str, decision: str) -> ApprovalState:
        state = await self._found(approval_id)
        event = "reviewed" if decision == REVIEW else state.stored
        self._meter.consent(event)
        if event in {APPROVED, DENIED, "reviewed"}:
            self._notifier.approval(state, event)
        return state

    async def _owners(self, request: ApprovalRequest) -> set[str | None]:
        """Return who owns the task that a request is for, and the tasks that this is a part of."""
        task = None if request.task is None else await self._records.task(request.task)
        above = [] if task is None else [await self._records.task(each) for each in task.task.path]
        return {request.task_owner, *(state.task.owner for state in above if state is not None)}

    def _check_entitled(self, state: ApprovalState, owners: Collection[str | None], by: Admitted) -> None:
        """Raise ``Refused`` unless the caller is an approver, in its own name, of somebody else's request."""
        request, claims, agent = state.request, by.claims, by.agent.id
        role = self._policy().roles.get(request.approvers)
        members = () if role is None else role.members
        named = any(isinstance(member, AgentMember) and member.agent == agent for member in members)
        was_member = claims is not None and claims.role == request.approvers
        if claims is None or not (named or (was_member and may_belong(agent, by.agent.issuer, members))):
            raise Refused(Code.NOT_AN_APPROVER, f"only members of the role {request.approvers} may decide this")
        if claims.agents:
            raise Refused(Code.NOT_AN_APPROVER, "a token that was handed on cannot decide anything")
        if agent in owners or agent in (request.agent, *request.chain):
            raise Refused(Code.NOT_AN_APPROVER, "nobody decides on a request of their own, or for their own task")

    def _check_alive(self, by: Admitted) -> None:
        """Judge the approver's token again at the epoch that the vote is cast at (law 2)."""
        claims = by.claims
        if claims is not None and self._revocations.rules.killer(claims.facts(by.kid), claims.epoch) is not None:
            raise BrokerError(Code.TOKEN_REVOKED, "the token has been revoked")

    def _vote(self, by: Admitted, decision: str, reason: str, now: float) -> Vote:
        role = "" if by.claims is None else by.claims.role
        return Vote(
            approver=by.agent.id,
            issuer=by.agent.issuer,
            role=role,
            approve=decision != DENY,
            reason=reason,
            at=now,
            epoch=self._revocations.rules.epoch,
            token=None if by.claims is None else facts_text(by.claims.facts(by.kid)),
        )

    async def _found(self, approval_id: str) -> ApprovalState:
        state = await self._records.approval(approval_id)
        if state is None:
            raise BrokerError(Code.NOT_FOUND, "there is no such request")
        return state

    async def _newer(self, wanted: str, after: str | None, limit: int, looks: int) -> Sequence[ApprovalState]:
        for _ in range(looks):
            found = [
                state for state in await self._page(wanted, None, limit) if after is None or state.request.id > after
            ]
            if found:
                return found
            await asyncio.sleep(LOOK_SECONDS)
        return []

    async def _page(self, wanted: str, before: str | None, limit: int) -> Sequence[ApprovalState]:
        stored = None if wanted in ("all", "expired") else wanted
        now, found = self._clock.now(), list[ApprovalState]()
        while len(found) < limit:
            # What has expired is still stored as pending: a page of those must not hide what is behind it.
            page = await self._records.approvals(stored=stored, before=before, limit=limit)
            found += [state for state in page if wanted in ("all", state.state(now))]
            if len(page) < limit:
                break
            before = page[-1].request.id
        return found[:limit]


def _decision(state: ApprovalState, vote: Vote, decision: str, caller: Caller) -> Change:
    """Return the change that records a decision. It is made at the epoch at which the approver was admitted (law 2)."""
    request = state.request
    guards: tuple[Guard, ...]
    writes: tuple[Write, ...]
    if decision == REVIEW:
        kind, guards, writes = Kind.APPROVAL_REVIEWED, (Unreviewed(request.id),), (Review(request.id, vote),)
    else:
        kind = Kind.APPROVAL_VOTED
        guards, writes = (ApprovalPending(request.id, vote.approver, vote.at),), (CastVote(request.id, vote),)
    return Change(_entry(kind, state, vote, caller), (EpochIs(vote.epoch), *guards), writes)


def _entry(kind: Kind, state: ApprovalState, vote: Vote, caller: Caller) -> Entry:
    request = state.request
    members: dict[str, Any] = {"approve": vote.approve} if kind is Kind.APPROVAL_VOTED else {}
    return entry(
        kind,
        vote.at,
        ref=request.id,
        agent=request.agent,
        role=request.role,
        task=request.task,
        digest=request.digest,
        by=vote.approver,
        by_role=vote.role,
        by_issuer=vote.issuer,
        reason=vote.reason,
        epoch=vote.epoch,
        **members,
        **caller.members(),
    )
