"""Asking for leave: the word of a person that a lease needs, asked for, used, or gone without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from broker.consent import Consent, asking_rate
from broker.core.approval import BREAK_GLASS, BUDGET, LEASE, ApprovalRequest, request_digest
from broker.core.change import AddApproval, ApprovalGranted, Guard, Write
from broker.core.errors import Code, GuardFailed, Pending, Refused
from broker.core.lease_decision import Ground, LeaseGranted
from broker.core.policy import Policy
from broker.core.policy.model import Approval
from broker.core.task import LEASES, Task
from broker.leasing.wish import Case, chain_of
from broker.ports import Ids, Records

REVIEW_SECONDS: Final = 24 * 3600
"""Seconds within which a break-glass use is expected to be reviewed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """What a person's word adds to the change that records an intent, and to its entry."""

    guards: tuple[Guard, ...] = ()
    writes: tuple[Write, ...] = ()
    why: Mapping[str, str] = field(default_factory=dict)
    unasked: ApprovalRequest | None = None
    """What was taken without asking, for people to be told of once it is durable."""


class Leaves:
    """Gets leave for leases that need it."""

    def __init__(self, *, consent: Consent, records: Records, policy: Callable[[], Policy], ids: Ids) -> None:
        """``policy`` returns the one in force."""
        self._consent = consent
        self._records = records
        self._policy = policy
        self._ids = ids

    async def get(self, case: Case, ground: Ground, granted: LeaseGranted, *, stored: bool) -> Leave:
        """Return the leave that the tier or the line of the policy demands, and lift a budget that people lifted.

        Raises ``Pending`` when people were asked, or have not decided yet, ``Refused`` when they said no, or when what
        they said does not fit this request.
        """
        lifted = await self._lift(case, ground, stored=stored)
        if granted.asks is None:
            return Leave() if lifted is None else Leave(why={"budget_approval": lifted})
        what = _asked(case, ground)
        if case.wish.break_glass is not None:
            return self._break_glass(case, ground, granted.asks, what)
        if case.wish.auth_req_id is None or lifted is not None:
            raise await self._ask(case, ground, self._request(case, ground, granted.asks, what, LEASE))
        digest = request_digest(what)
        state = await self._consent.redeem(case.wish.auth_req_id, digest, ground.claims.client_id, ground.now)
        if state.request.approvers != granted.asks.approvers or state.request.quorum < granted.asks.quorum:
            raise Refused(Code.APPROVAL_INVALID, "the policy has changed: other people must approve this now")
        return Leave(
            guards=(ApprovalGranted(state.request.id, digest, ground.now),), why={"approval": state.request.id}
        )

    async def for_budget(self, case: Case, ground: Ground, failed: GuardFailed) -> Exception:
        """Return what to raise when the budget is used up: a pending request, if the role lets people lift budgets."""
        role = self._policy().roles.get(ground.claims.role)
        if role is None or role.budget_approval is None:
            return failed
        asks, adds = role.budget_approval.approval, role.budget_approval.adds
        request = self._request(case, ground, asks, _more_leases(ground), BUDGET, lifts=(LEASES, adds))
        return await self._ask(case, ground, request)

    async def _lift(self, case: Case, ground: Ground, *, stored: bool) -> str | None:
        """Carry out the lifting of a budget that this request goes on with; return the id of the approval, if any.

        Once carried out, the approval is used up, and naming it again lifts nothing more.
        """
        auth_req_id = case.wish.auth_req_id
        state = None if auth_req_id is None else await self._records.approval(auth_req_id)
        if state is None or state.request.kind != BUDGET:
            return None
        digest, agent = request_digest(_more_leases(ground)), ground.claims.client_id
        implicit = None if stored else ground.task
        await self._consent.lift_once(state.request.id, digest, agent, case.caller, ground.now, implicit=implicit)
        return state.request.id

    async def _ask(self, case: Case, ground: Ground, wanted: ApprovalRequest) -> Pending:
        return await self._consent.ask(wanted, (), case.caller, ground.now)

    def _break_glass(self, case: Case, ground: Ground, asks: Approval, what: Mapping[str, Any]) -> Leave:
        role = self._policy().roles.get(ground.claims.role)
        if role is None or not role.break_glass:
            raise Refused(Code.BREAK_GLASS_NOT_ALLOWED, "this role may not go ahead without approval")
        request = self._request(case, ground, asks, what, BREAK_GLASS)
        return Leave(
            guards=(asking_rate(request.agent, request.requested_at),),
            writes=(AddApproval(request),),
            why={"break_glass": request.reason or "", "approval": request.id},
            unasked=request,
        )

    def _request(
        self,
        case: Case,
        ground: Ground,
        asks: Approval,
        what: Mapping[str, Any],
        kind: str,
        *,
        lifts: tuple[str, int] | None = None,
    ) -> ApprovalRequest:
        claims, task = ground.claims, _opened(ground.task)
        secret = ground.policy.secrets.get(case.wish.secret)
        return ApprovalRequest(
            id=self._ids.new("apr"),
            kind=kind,
            digest=request_digest(what),
            agent=claims.client_id,
            issuer=claims.issuer,
            role=claims.role,
            asked=what,
            approvers=asks.approvers,
            quorum=asks.quorum,
            requested_at=ground.now,
            expires_at=int(ground.now) + (REVIEW_SECONDS if kind == BREAK_GLASS else asks.expires),
            tier=claims.tier if secret is None else secret.tier.name,
            task=None if task is None else task.id,
            task_owner=None if task is None else task.owner,
            purpose=None if task is None else task.purpose,
            chain=chain_of(ground),
            reason=case.wish.break_glass,
            lifts=lifts,
        )


def _opened(task: Task) -> Task | None:
    """Return a task that people know: one that was opened, not one that is made for this very lease."""
    return None if task.implicit else task


def _asked(case: Case, ground: Ground) -> dict[str, Any]:
    """Return what an approval is bound to."""
    claims, wish, task = ground.claims, case.wish, _opened(ground.task)
    what = {
        "kind": "lease",
        "agent": claims.client_id,
        "on_behalf_of": claims.sub,
        "actors": list(claims.agents),
        "task": None if task is None else task.id,
        "secret": wish.secret,
        "ttl": wish.ttl,
        "key": claims.jkt,
        "encrypt_to": wish.ask(case.lease).key,
    }
    return {name: value for name, value in what.items() if value not in (None, [])}


def _more_leases(ground: Ground) -> dict[str, Any]:
    """Return what is asked of people when a task has used up its leases."""
    return {"kind": "budget", "agent": ground.claims.client_id, "task": ground.task.id, "resource": LEASES}
