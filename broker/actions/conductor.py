"""Actions: a resource server reserves before it acts for an agent, and settles with what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from broker.actions.records import refused_entry, reserved_entry, settled_entry
from broker.actions.wish import Asked, Case, Reserved, Wish, fingerprint, keyed, scoped_key
from broker.consent import Consent
from broker.core.access_token import VerifiedToken
from broker.core.action import MAX_TARGET, OUTCOMES, Action, ActionState
from broker.core.approval import BUDGET, ApprovalRequest, request_digest
from broker.core.change import (
    ActionUnsettled,
    AddAction,
    Change,
    EpochIs,
    Guard,
    SettleAction,
    Spend,
    TaskOpen,
)
from broker.core.claims import AccessClaims
from broker.core.errors import (
    BrokerError,
    Code,
    EpochMoved,
    GuardFailed,
    Malformed,
    Refused,
    too_many_rules,
)
from broker.core.implicit_task import implicit_task
from broker.core.policy import Policy
from broker.core.tally import Allowance
from broker.core.task import ACTION, Task
from broker.core.token_check import TokenCheck
from broker.core.visible import is_visible
from broker.ports import Admitted, Caller, Clock, Ids, Ledger, Meter, Records, Revocations

SETTLE_SECONDS: Final = 15 * 60
"""Seconds within which a reservation can be settled; one that never is counts as done."""

MAX_ATTEMPTS: Final = 16
RECORDED_REFUSALS: Final = 60
"""Refusals per agent and minute that get an entry of their own; more are only counted."""


class Actions:
    """Reserves and settles actions against the budgets of tasks."""

    def __init__(  # noqa: PLR0913 - a composition root passes each port by name
        self,
        *,
        check: TokenCheck,
        consent: Consent,
        policy: Callable[[], Policy],
        revocations: Revocations,
        ledger: Ledger,
        records: Records,
        clock: Clock,
        ids: Ids,
        meter: Meter,
    ) -> None:
        """``check`` judges the tokens that are presented; ``policy`` returns the one in force."""
        self._check = check
        self._consent = consent
        self._policy = policy
        self._revocations = revocations
        self._ledger = ledger
        self._records = records
        self._clock = clock
        self._ids = ids
        self._meter = meter
        self._recorded = Allowance(RECORDED_REFUSALS)

    async def reserve(self, wish: Wish, by: Admitted, caller: Caller) -> Reserved:
        """Reserve an action, durably, for the task of a token.

        Raises ``BrokerError``: ``SUBJECT_TOKEN_INVALID`` if the token is not good or not for a resource that ``by``
        serves, ``INSUFFICIENT_SCOPE``, ``TASK_NOT_OPEN``, ``BUDGET_USED_UP``; ``Pending`` if people may lift that.
        """
        wish.check()
        earlier = await self._earlier(wish, by)
        if earlier is not None:
            return earlier
        for _ in range(MAX_ATTEMPTS):
            try:
                return await self._attempt(wish, by, caller)
            except EpochMoved:
                continue
            except (Refused, GuardFailed) as error:
                await self._record(error, wish, by, caller)
                raise
        raise too_many_rules()

    async def settle(
        self, action_id: str, outcome: str, result: str | None, by: Admitted, caller: Caller
    ) -> ActionState:
        """Say what came of a reservation. Saying the same again changes nothing.

        It works whatever became of the token and the task. Raises ``GuardFailed`` (``NOT_FOUND``, ``CONFLICT``).
        """
        if outcome not in OUTCOMES:
            raise Malformed(f"outcome: must be one of {', '.join(OUTCOMES)}")
        if result is not None and not (0 < len(result) <= MAX_TARGET and is_visible(result)):
            raise Malformed(f"result: must be printable text of 1 to {MAX_TARGET} characters")
        known = await self._records.action(action_id)
        if known is None or known.action.by != by.agent.id:
            raise BrokerError(Code.NOT_FOUND, "no such action was reserved")
        if known.outcome == outcome:
            return known
        now = self._clock.now()
        record = settled_entry(known.action, outcome, result, now, caller)
        guard, write = ActionUnsettled(action_id, by.agent.id, now), SettleAction(action_id, outcome, result, now)
        try:
            await self._ledger.commit(Change(record, (guard,), (write,)))
        except GuardFailed:
            raced = await self._records.action(action_id)
            if raced is None or raced.outcome != outcome:
                raise
            return raced
        return ActionState(action=known.action, outcome=outcome, result=result, settled_at=now)

    async def show(self, action_id: str) -> ActionState:
        """Return a reservation. Raises ``BrokerError`` (``NOT_FOUND``)."""
        known = await self._records.action(action_id)
        if known is None:
            raise BrokerError(Code.NOT_FOUND, "no such action was reserved")
        return known

    async def list(
        self, *, task: str | None, agent: str | None, before: str | None, limit: int
    ) -> Sequence[ActionState]:
        """Return reservations, the youngest first: the action log of an incident."""
        return await self._records.actions(task=task, agent=agent, before=before, limit=limit)

    async def _attempt(self, wish: Wish, by: Admitted, caller: Caller) -> Reserved:
        task_id = self._good_token(wish, by, self._clock.now()).claims.task
        state = await self._records.task(task_id)
        now = self._clock.now()
        # From here on nothing waits: token, rules and policy are all of the same moment.
        self._check_standing(by)
        token, policy = self._good_token(wish, by, now), self._policy()
        task = _implicit(policy, token.claims) if state is None else state.task
        case = Case(
            wish=wish,
            by=by,
            token=token,
            task=task,
            stored=state is not None,
            epoch=self._revocations.rules.epoch,
            now=now,
            policy=policy,
            caller=caller,
        )
        await self._lift(case)
        return await self._commit(case)

    async def _commit(self, case: Case) -> Reserved:
        wish, claims, now = case.wish, case.claims, case.now
        action = Action(
            id=self._ids.new("act"),
            name=wish.action,
            count=wish.count,
            task=claims.task,
            token=claims.jti,
            agent=claims.client_id,
            audience=claims.aud,
            by=case.by.agent.id,
            reserved_at=now,
            settle_by=int(now) + SETTLE_SECONDS,
            target=wish.target,
            digest=wish.digest,
        )
        guards: tuple[Guard, ...] = (
            EpochIs(case.epoch),
            TaskOpen(claims.task, now, implicit=case.implicit),
            Spend(claims.task, case.resource, wish.count, limited=case.task.budget.limits_resource(case.resource)),
        )
        change = Change(reserved_entry(case, action), (*guards, *keyed(case, action.id)), (AddAction(action),))
        try:
            receipt = await self._ledger.commit(change)
        except GuardFailed as failed:
            # The same request may have been under way twice: then the other one has used the budget, for both.
            earlier = await self._earlier(wish, case.by)
            if earlier is not None:
                return earlier
            if failed.code is Code.BUDGET_USED_UP and (request := self._budget_request(case)) is not None:
                raise await self._consent.ask(request, (), case.caller, now) from failed
            raise
        return Reserved(ActionState(action=action), receipt.left)

    def _check_standing(self, by: Admitted) -> None:
        """Raise ``BrokerError`` (``TOKEN_REVOKED``) if the resource server itself was revoked since it was admitted."""
        claims = by.claims
        if claims is not None and self._revocations.rules.killer(claims.facts(by.kid), claims.epoch) is not None:
            raise BrokerError(Code.TOKEN_REVOKED, "the token has been revoked")

    def _good_token(self, wish: Wish, by: Admitted, now: float) -> VerifiedToken:
        """Judge the presented token by the rules of this moment, and by what its resource server may ask about."""
        try:
            token = self._check.check(wish.token, now, None)
        except BrokerError as error:
            read = self._check.read(wish.token, now)
            if read is None or not self._policy().serves(by.agent, audience=read.claims.aud):
                raise _not_yours() from error
            raise Refused(Code.SUBJECT_TOKEN_INVALID, f"token: {error.public}") from error
        if not self._policy().serves(by.agent, audience=token.claims.aud):
            raise _not_yours()
        if wish.needed_scope not in token.claims.scopes:
            raise Refused(Code.INSUFFICIENT_SCOPE, f"the token does not have the scope {wish.needed_scope}")
        return token

    async def _earlier(self, wish: Wish, by: Admitted) -> Reserved | None:
        """Return what an earlier request with the same idempotency key reserved."""
        if wish.idempotency_key is None:
            return None
        known = await self._records.idempotent(scoped_key(wish.idempotency_key, by))
        if known is None:
            return None
        if known.fingerprint != fingerprint(wish):
            raise Refused(Code.IDEMPOTENCY_KEY_REUSED, "this Idempotency-Key was used for another request")
        state = await self._records.action(known.ref)
        if state is None:
            return None
        task = await self._records.task(state.action.task)
        balance = None if task is None else task.balances.get(ACTION + state.action.name)
        return Reserved(state, None if balance is None else balance.left)

    async def _record(self, error: Refused | GuardFailed, wish: Wish, by: Admitted, caller: Caller) -> None:
        """Record a refusal of what an agent's token was presented for; one that is none of the server's is counted."""
        if error.code in {Code.IDEMPOTENCY_KEY_IN_USE, Code.IDEMPOTENCY_KEY_REUSED}:
            return
        self._meter.refused(error.code.value)
        now, policy = self._clock.now(), self._policy()
        token = self._check.read(wish.token, now)
        if token is None or not policy.serves(by.agent, audience=token.claims.aud):
            return
        if self._recorded.admit(token.claims.client_id, now):
            epoch = self._revocations.rules.epoch
            asked = Asked(wish=wish, by=by, token=token, epoch=epoch, now=now, policy=policy, caller=caller)
            await self._ledger.commit(Change(refused_entry(asked, error)))

    async def _lift(self, case: Case) -> None:
        """Carry out the lifting of the budget that this request goes on with, if it names one that was approved."""
        wish, request = case.wish, self._budget_request(case)
        if wish.auth_req_id is None:
            return
        if request is None:
            raise Refused(Code.APPROVAL_INVALID, "auth_req_id: nobody can lift the budgets of this role")
        await self._consent.lift_once(
            wish.auth_req_id, request.digest, request.agent, case.caller, case.now, implicit=case.implicit
        )

    def _budget_request(self, case: Case) -> ApprovalRequest | None:
        """Return what people would be asked to lift the budget of this action, if the role lets them."""
        claims, task = case.claims, case.task
        role = case.policy.roles.get(claims.role)
        if role is None or role.budget_approval is None:
            return None
        approval, adds = role.budget_approval.approval, max(role.budget_approval.adds, case.wish.count)
        what: dict[str, Any] = {
            "kind": "budget",
            "agent": claims.client_id,
            "audience": claims.aud,
            "task": claims.task,
            "resource": case.resource,
            "count": adds,
        }
        return ApprovalRequest(
            id=self._ids.new("apr"),
            kind=BUDGET,
            digest=request_digest(what),
            agent=claims.client_id,
            issuer=claims.issuer,
            role=claims.role,
            asked=what,
            approvers=approval.approvers,
            quorum=approval.quorum,
            requested_at=case.now,
            expires_at=int(case.now) + approval.expires,
            tier=claims.tier,
            task=task.id,
            task_owner=task.owner,
            purpose=task.purpose,
            chain=(claims.sub, *reversed(claims.agents)),
            lifts=(case.resource, adds),
        )


def _not_yours() -> Refused:
    """Refuse a token for a resource of somebody else: the same whether it is good, ended, revoked, or none at all."""
    return Refused(Code.SUBJECT_TOKEN_INVALID, "token: not an access token for a resource that you serve")


def _implicit(policy: Policy, claims: AccessClaims) -> Task:
    """Return the task of a token that is not stored yet. Raises ``Refused`` if it cannot be made."""
    role = policy.roles.get(claims.role)
    if role is None or claims.parents:
        raise Refused(Code.TASK_NOT_OPEN, "the task is not open")
    return implicit_task(claims, role.limits)
