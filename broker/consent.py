"""Asking people, and using what they said: requests for approval as token requests and actions see them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from broker.core.approval import (
    APPROVED,
    DENIED,
    EXPIRED,
    PENDING,
    POLL_INTERVAL,
    USED,
    ApprovalRequest,
    ApprovalState,
    standing,
)
from broker.core.change import (
    AddApproval,
    ApprovalAbsent,
    ApprovalGranted,
    Change,
    EpochIs,
    Guard,
    RaiseBudget,
    RateWithin,
    TaskOpen,
)
from broker.core.entry import Entry, Kind, entry
from broker.core.errors import Code, GuardFailed, Pending, Refused
from broker.core.policy import Policy
from broker.core.tally import Places
from broker.core.task import Task
from broker.ports import Caller, Clock, Events, Ledger, Meter, Notifier, Records, Revocations

REQUESTS_PER_MINUTE: Final = 10
"""How much one agent may put before people in a minute, to decide on or to look at afterwards."""

SLOWER: Final = 5
"""Seconds that the interval grows by when a client asks again too soon (CIBA, 11)."""

SLOWEST: Final = 60
"""Seconds that the interval never exceeds."""

LOOK_SECONDS: Final = 0.25
"""How often a long poll looks whether people have decided."""

REMEMBERED_POLLS: Final = 10_000

_WAITING: Final = "a person has to decide first: ask again with this auth_req_id"
_REFUSALS: Final = {
    DENIED: (Code.APPROVAL_DENIED, "the request was denied"),
    EXPIRED: (Code.APPROVAL_EXPIRED, "nobody approved in time, or the approval was not used in time"),
}


class Consent:
    """Puts requests before people, and says what became of them."""

    def __init__(  # noqa: PLR0913 - a composition root passes each port by name
        self,
        *,
        ledger: Ledger,
        records: Records,
        policy: Callable[[], Policy],
        revocations: Revocations,
        clock: Clock,
        notifier: Notifier,
        meter: Meter,
        events: Events,
    ) -> None:
        """``policy`` returns the one in force, ``revocations`` are the rules in force."""
        self._ledger = ledger
        self._records = records
        self._policy = policy
        self._revocations = revocations
        self._clock = clock
        self._notifier = notifier
        self._meter = meter
        self._events = events
        self._polls: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._places = Places()

    async def ask(self, request: ApprovalRequest, guards: tuple[Guard, ...], caller: Caller, now: float) -> Pending:
        """Put a request before people, durably, and return what to raise.

        If the same request waits already, that one is meant, and nothing is written. Raises ``GuardFailed`` (also
        ``RATE_LIMITED``) or ``Unavailable`` if it cannot be recorded.
        """
        waiting = await self._records.pending_approval(request.digest, now)
        if waiting is not None:
            return self._pending(waiting, now)
        change = Change(
            _requested_entry(request, self._policy().digest, now, caller),
            (ApprovalAbsent(request.digest, now), asking_rate(request.agent, now), *guards),
            (AddApproval(request),),
        )
        try:
            await self._ledger.commit(change)
        except GuardFailed as failed:
            waiting = await self._records.pending_approval(request.digest, now)
            if failed.code is not Code.CONFLICT or waiting is None:
                raise
            return self._pending(waiting, now)
        state = ApprovalState(request=request, stored=PENDING)
        self._announce(state, "requested")
        return self._pending(state, now)

    async def redeem(
        self, auth_req_id: str, digest: str, agent_id: str, now: float, *, wait: float = 0
    ) -> ApprovalState:
        """Return the request if it was approved, for exactly this digest and agent, and its votes still count.

        Waits for a decision for ``wait`` seconds at most, and not at all where too many wait. It is not used up here:
        the change that acts on it says ``ApprovalGranted``. Raises ``Pending``, or ``Refused`` (``APPROVAL_DENIED``,
        ``APPROVAL_EXPIRED``, ``APPROVAL_INVALID``).
        """
        state, patient = await self._looked_up(auth_req_id, digest, agent_id), False
        if state.state(now) == PENDING and wait > 0:
            with self._places.taking(agent_id) as patient:
                state = await self._decided(state, now + wait) if patient else state
            now = self._clock.now()
        current = state.state(now)
        if current == PENDING:
            raise self._asked_again(state, now, patient=patient)
        if current in _REFUSALS:
            raise Refused(*_REFUSALS[current])
        if current != APPROVED:
            raise _invalid()
        role = self._policy().roles.get(state.request.approvers)
        members = () if role is None else role.members
        if standing(state, self._revocations.rules, members) < state.request.quorum:
            text = "what was approved was revoked since, or whoever approved it may do so no more"
            raise Refused(Code.APPROVAL_INVALID, text)
        return state

    async def lift(self, state: ApprovalState, caller: Caller, now: float, *, implicit: Task | None = None) -> None:
        """Raise the budget that an approved request is about, which uses the approval up.

        ``implicit`` is the task to store first, if it is not stored yet: nothing could be used of its budget so far.
        Raises ``GuardFailed`` if the task is not open any more or the approval was used, ``EpochMoved`` if a rule came
        in between.
        """
        request = state.request
        if request.lifts is None or request.task is None:
            raise _invalid()
        resource, count = request.lifts
        record = entry(
            Kind.BUDGET_RAISED,
            now,
            ref=request.task,
            task=request.task,
            agent=request.agent,
            role=request.role,
            resource=resource,
            count=count,
            approval=request.id,
            policy=self._policy().digest,
            issuer=request.issuer,
            **caller.members(),
        )
        guards = (
            EpochIs(self._revocations.rules.epoch),
            TaskOpen(request.task, now, implicit=implicit),
            ApprovalGranted(request.id, request.digest, now),
        )
        await self._ledger.commit(Change(record, guards, (RaiseBudget(request.task, resource, count),)))
        self._meter.consent("used")

    async def lift_once(
        self,
        auth_req_id: str,
        digest: str,
        agent_id: str,
        caller: Caller,
        now: float,
        *,
        wait: float = 0,
        implicit: Task | None = None,
    ) -> None:
        """Raise the budget that an approved request is about; see :meth:`redeem` and :meth:`lift`, whose errors it has.

        If the same request did so before, or does so at the same time, this does nothing: the budget is raised once.
        """
        try:
            agreed = await self.redeem(auth_req_id, digest, agent_id, now, wait=wait)
            await self.lift(agreed, caller, now, implicit=implicit)
        except (Refused, GuardFailed):
            state = await self._records.approval(auth_req_id)
            if state is None or state.stored != USED or state.request.digest != digest:
                raise

    def announce_break_glass(self, request: ApprovalRequest) -> None:
        """Tell everybody that something was taken without asking; it is durable by now."""
        self._events.error("break_glass.used", approval=request.id, agent=request.agent, role=request.role)
        self._announce(ApprovalState(request=request, stored="unreviewed"), "break_glass")

    def _announce(self, state: ApprovalState, event: str) -> None:
        self._meter.consent(event)
        self._notifier.approval(state, event)

    async def _looked_up(self, auth_req_id: str, digest: str, agent_id: str) -> ApprovalState:
        state = await self._records.approval(auth_req_id)
        if state is None or state.request.agent != agent_id or state.request.digest != digest:
            raise _invalid()
        return state

    async def _decided(self, state: ApprovalState, until: float) -> ApprovalState:
        """Return the request once it is decided, or as it is when the time is over."""
        looks = max(1, int((until - self._clock.now()) / LOOK_SECONDS))
        for _ in range(looks):
            await asyncio.sleep(LOOK_SECONDS)
            found = await self._records.approval(state.request.id)
            if found is None or found.stored != PENDING or found.request.expires_at <= self._clock.now():
                return found or state
        return state

    def _pending(self, state: ApprovalState, now: float) -> Pending:
        """Return what tells a client to wait, and from when on it may ask."""
        interval = self._polls.get(state.request.id, (now, POLL_INTERVAL))[1]
        return self._told(state, now, interval, Code.AUTHORIZATION_PENDING)

    def _asked_again(self, state: ApprovalState, now: float, *, patient: bool) -> Pending:
        last, interval = self._polls.get(state.request.id, (0.0, POLL_INTERVAL))
        if patient or now - last >= interval:
            return self._told(state, now, interval, Code.AUTHORIZATION_PENDING)
        return self._told(state, now, min(interval + SLOWER, SLOWEST), Code.SLOW_DOWN)

    def _told(self, state: ApprovalState, now: float, interval: int, code: Code) -> Pending:
        request = state.request
        self._polls[request.id] = (now, interval)
        self._polls.move_to_end(request.id)
        if len(self._polls) > REMEMBERED_POLLS:
            self._polls.popitem(last=False)
        left = max(0, request.expires_at - int(now))
        return Pending(code, _WAITING, auth_req_id=request.id, expires_in=left, interval=interval)


def asking_rate(agent: str, now: float) -> RateWithin:
    """Return the guard that bounds what an agent puts before people: they could not tell what matters in a flood."""
    return RateWithin(f"approval/{agent}", REQUESTS_PER_MINUTE, now)


def _requested_entry(request: ApprovalRequest, policy_digest: str, now: float, caller: Caller) -> Entry:
    return entry(
        Kind.APPROVAL_REQUESTED,
        now,
        ref=request.id,
        approval_kind=request.kind,
        agent=request.agent,
        issuer=request.issuer,
        role=request.role,
        task=request.task,
        tier=request.tier,
        digest=request.digest,
        asked=dict(request.asked),
        approvers=request.approvers,
        quorum=request.quorum,
        expires_at=request.expires_at,
        purpose=request.purpose,
        chain=list(request.chain),
        reason=request.reason,
        policy=policy_digest,
        lifts=None if request.lifts is None else {"resource": request.lifts[0], "count": request.lifts[1]},
        **caller.members(),
    )


def _invalid() -> Refused:
    return Refused(Code.APPROVAL_INVALID, "auth_req_id: there is no approval of exactly this request")
