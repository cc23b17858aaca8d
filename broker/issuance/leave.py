"""Asking for leave: the word of a person that a token needs, asked for, waited for, used, or gone without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from broker.consent import Consent, asking_rate
from broker.core.approval import BREAK_GLASS, BUDGET, TOKEN, ApprovalRequest, ApprovalState, request_digest
from broker.core.change import AddApproval, ApprovalGranted, Guard, Write
from broker.core.claims import AccessClaims
from broker.core.errors import Code, GuardFailed, Pending, Refused
from broker.core.grant import Ask, NeedsApproval
from broker.core.policy import Policy
from broker.core.policy.model import Approval
from broker.core.scope import parse_scopes
from broker.core.task import TOKENS, Task
from broker.issuance.applicants import Applicant, TokenRequest
from broker.issuance.records import asked
from broker.ports import Ids, Records

REVIEW_SECONDS: Final = 24 * 3600
"""Seconds within which a break-glass use is expected to be reviewed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """What a person's word adds to the change that issues a token, and to its entry."""

    guards: tuple[Guard, ...] = ()
    writes: tuple[Write, ...] = ()
    why: Mapping[str, str] = field(default_factory=dict)
    unasked: ApprovalRequest | None = None
    """What was taken without asking, for people to be told of once it is durable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plea:
    """A request with all that an approver is shown of it: by which role it would be granted, and of which tier."""

    applicant: Applicant
    role: str
    tier: str
    parent: AccessClaims | None
    task: Task | None


class Leaves:
    """Gets leave for requests that need it."""

    def __init__(self, *, consent: Consent, records: Records, policy: Callable[[], Policy], ids: Ids) -> None:
        """``policy`` returns the one in force."""
        self._consent = consent
        self._records = records
        self._policy = policy
        self._ids = ids

    async def taken_over(self, request: TokenRequest) -> TokenRequest:
        """Return a CIBA request with what it leaves out taken from the pending request that it names.

        Whether that may be gone on with, by this agent and like this, is judged with everything else.
        """
        if not request.takes_over or request.auth_req_id is None:
            return request
        state = await self._records.approval(request.auth_req_id)
        if state is None or state.request.kind != TOKEN:
            return request
        return replace(request, ask=_completed(request.ask, state.request.asked))

    async def for_token(self, plea: Plea, needed: NeedsApproval) -> Leave:
        """Return the leave that a tier or a line of the policy demands.

        Raises ``Pending`` when people were asked, or have not decided yet, ``Refused`` when they said no, or when what
        they said does not fit this request.
        """
        applicant = plea.applicant
        lifted = await self._lift(plea)
        what = asked(applicant.agent.id, applicant.ask, needed.granted, plea.parent)
        if applicant.request.break_glass is not None:
            return self._break_glass(plea, needed, what)
        if applicant.request.auth_req_id is None or lifted is not None:
            raise await self._ask(applicant, self._request(plea, needed, what, TOKEN))
        digest = request_digest(what)
        state = await self._redeem(applicant, digest)
        if state.request.approvers != needed.approvers or state.request.quorum < needed.quorum:
            raise Refused(Code.APPROVAL_INVALID, "the policy has changed: other people must approve this now")
        return Leave(
            guards=(ApprovalGranted(state.request.id, digest, applicant.now),), why={"approval": state.request.id}
        )

    async def for_budget(self, plea: Plea) -> Leave:
        """Return the leave of a request that no tier or line demands one for: perhaps people lifted its budget."""
        lifted = await self._lift(plea)
        return Leave() if lifted is None else Leave(why={"budget_approval": lifted})

    async def ask_for_budget(self, plea: Plea, failed: GuardFailed) -> Exception:
        """Return what to raise when the budget is used up: a pending request, if the role lets people lift budgets."""
        role = self._policy().roles.get(plea.role)
        if role is None or role.budget_approval is None or plea.task is None:
            return failed
        request = self._request(plea, role.budget_approval.approval, _more_tokens(plea), BUDGET)
        return await self._ask(plea.applicant, replace(request, lifts=(TOKENS, role.budget_approval.adds)))

    async def _lift(self, plea: Plea) -> str | None:
        """Carry out the lifting of a budget that this request goes on with; return the id of the approval, if any.

        Once carried out, the approval is used up, and naming it again lifts nothing more.
        """
        applicant, task = plea.applicant, plea.task
        request = applicant.request
        if request.auth_req_id is None:
            return None
        state = await self._records.approval(request.auth_req_id)
        if state is None or state.request.kind != BUDGET:
            return None
        await self._consent.lift_once(
            request.auth_req_id,
            request_digest(_more_tokens(plea)),
            applicant.agent.id,
            applicant.caller,
            applicant.now,
            wait=request.wait,
            implicit=task if task is not None and task.implicit else None,
        )
        return request.auth_req_id

    async def _redeem(self, applicant: Applicant, digest: str) -> ApprovalState:
        request = applicant.request
        return await self._consent.redeem(
            request.auth_req_id or "", digest, applicant.agent.id, applicant.now, wait=request.wait
        )

    async def _ask(self, applicant: Applicant, wanted: ApprovalRequest) -> Pending:
        return await self._consent.ask(wanted, applicant.guards, applicant.caller, applicant.now)

    def _break_glass(self, plea: Plea, needed: NeedsApproval, what: Mapping[str, Any]) -> Leave:
        role = self._policy().roles.get(plea.role)
        if role is None or not role.break_glass:
            raise Refused(Code.BREAK_GLASS_NOT_ALLOWED, "this role may not go ahead without approval")
        request = self._request(plea, needed, what, BREAK_GLASS)
        return Leave(
            guards=(asking_rate(request.agent, request.requested_at),),
            writes=(AddApproval(request),),
            why={"break_glass": request.reason or "", "approval": request.id},
            unasked=request,
        )

    def _request(
        self, plea: Plea, needed: NeedsApproval | Approval, what: Mapping[str, Any], kind: str
    ) -> ApprovalRequest:
        applicant, parent, task = plea.applicant, plea.parent, plea.task
        seconds = REVIEW_SECONDS if kind == BREAK_GLASS else needed.expires
        return ApprovalRequest(
            id=self._ids.new("apr"),
            kind=kind,
            digest=request_digest(what),
            agent=applicant.agent.id,
            issuer=applicant.agent.issuer,
            role=plea.role,
            asked=what,
            approvers=needed.approvers,
            quorum=needed.quorum,
            requested_at=applicant.now,
            expires_at=int(applicant.now) + seconds,
            tier=needed.tier if isinstance(needed, NeedsApproval) else plea.tier,
            task=None if task is None else task.id,
            task_owner=None if task is None else task.owner,
            purpose=None if task is None else task.purpose,
            chain=() if parent is None else (parent.sub, *reversed(parent.agents)),
            reason=applicant.request.break_glass,
        )


def _completed(ask: Ask, earlier: Mapping[str, Any]) -> Ask:
    """Return an ask with what it leaves out as it was asked before."""
    return replace(
        ask,
        audience=ask.audience or earlier.get("audience"),
        scopes=parse_scopes(" ".join(earlier["scopes"])) if ask.scopes is None else ask.scopes,
        task=ask.task or earlier.get("task"),
        details=tuple(earlier.get("details", ())) or None if ask.details is None else ask.details,
        may_act=ask.may_act or earlier.get("may_act"),
    )


def _more_tokens(plea: Plea) -> dict[str, Any]:
    """Return what is asked of people when a task has used up its tokens."""
    task = "" if plea.task is None else plea.task.id
    return {"kind": "budget", "agent": plea.applicant.agent.id, "task": task, "resource": TOKENS}
