"""The conductor: identify, decide, mint, check, record, and only then release. The order is the design (laws 1, 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from broker.consent import Consent
from broker.core.change import Change
from broker.core.claims import AccessClaims
from broker.core.delegation import finish
from broker.core.errors import Code, EpochMoved, GuardFailed, Refused, too_many_rules
from broker.core.grant import Denied, Granted, NeedsApproval
from broker.core.policy import Policy
from broker.core.task import Task
from broker.issuance.applicants import Applicant, Applicants, TokenRequest
from broker.issuance.case import Case, judge_case
from broker.issuance.intake import Intake
from broker.issuance.leave import Leave, Leaves, Plea
from broker.issuance.records import issued_entry
from broker.issuance.token_ids import TokenIds
from broker.ports import Caller, Clock, Ids, Ledger, Meter, Records, Revocations, Signer

MAX_ATTEMPTS: Final = 16
"""How often one request is decided again because revocations got in between, before it is told to come back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A released token: durable in the ledger at ``seq``. ``exchanged`` says that it came of another token."""

    token: str = field(repr=False)
    claims: AccessClaims
    seq: int
    exchanged: bool = False


class Issuance:
    """Answers token requests: direct ones, exchanges, and those that people decide on."""

    def __init__(  # noqa: PLR0913 - a composition root passes each port by name
        self,
        *,
        issuer: str,
        applicants: Applicants,
        intake: Intake,
        consent: Consent,
        policy: Callable[[], Policy],
        revocations: Revocations,
        signer: Signer,
        ledger: Ledger,
        records: Records,
        clock: Clock,
        ids: Ids,
        token_ids: TokenIds,
        meter: Meter,
    ) -> None:
        """``issuer`` is the configured public URL; ``policy`` returns the one in force."""
        self._issuer = issuer
        self._applicants = applicants
        self._intake = intake
        self._consent = consent
        self._leaves = Leaves(consent=consent, records=records, policy=policy, ids=ids)
        self._policy = policy
        self._revocations = revocations
        self._signer = signer
        self._ledger = ledger
        self._clock = clock
        self._ids = ids
        self._token_ids = token_ids
        self._meter = meter

    async def issue(self, request: TokenRequest, caller: Caller) -> Issued:
        """Answer one token request.

        Raises ``Refused`` when the agent may not have it, ``Pending`` when a person has to decide first, and
        ``Unavailable`` when it cannot be had now. Whatever is raised, no credential exists that the ledger does not
        record.
        """
        request = await self._leaves.taken_over(request)
        for _ in range(MAX_ATTEMPTS):
            # Anew each time: who was removed, and then revoked, in between must not get a token that outlives the rule.
            task = await self._intake.stored_task(request)
            applicant = await self._intake.identify(request, caller)
            try:
                applicant = await self._applicants.with_subject(applicant)
                return await self._attempt(applicant, task)
            except EpochMoved:
                continue
            except (Refused, GuardFailed) as error:
                raise await self._intake.refusal(applicant, error) from error
        raise too_many_rules()

    async def _attempt(self, applicant: Applicant, task: Task | None) -> Issued:
        """Decide once and act on it. Raises ``EpochMoved`` if the rules changed before it was durable."""
        case = self._decided(applicant, task)
        decision = case.decision
        if isinstance(decision, Denied):
            raise Refused(decision.code, decision.reason)
        granted = decision.granted if isinstance(decision, NeedsApproval) else decision
        leave = await self._leave(case.plea(granted), decision)
        self._intake.check_fresh(case.applicant, case.policy)
        return await self._release(case, granted, leave)

    async def _leave(self, plea: Plea, decision: Granted | NeedsApproval) -> Leave:
        if isinstance(decision, NeedsApproval):
            return await self._leaves.for_token(plea, decision)
        return await self._leaves.for_budget(plea)

    def _decided(self, applicant: Applicant, task: Task | None) -> Case:
        """Decide, without any pause in between: all that it looks at is of the same moment and the same epoch."""
        return judge_case(applicant, self._applicants.parent(applicant), task, self._policy(), self._revocations)

    async def _release(self, case: Case, granted: Granted, leave: Leave) -> Issued:
        """Mint, check, record, and only then release."""
        applicant = case.applicant
        claims = self._claims(case, granted)
        minted = await self._signer.mint_checked(claims, applicant.now)
        record = issued_entry(applicant, granted, claims, minted.kid, case.policy.digest, **leave.why)
        guards = (*case.guards(granted, claims.exp), *leave.guards)
        try:
            receipt = await self._ledger.commit(Change(record, guards, leave.writes))
        except GuardFailed as failed:
            if failed.code is Code.BUDGET_USED_UP:
                raise await self._leaves.ask_for_budget(case.plea(granted), failed) from failed
            raise
        self._meter.issued(granted.role, applicant.who.method)
        if leave.unasked is not None:
            self._consent.announce_break_glass(leave.unasked)
        return Issued(  # the only line that releases a token
            token=minted.token, claims=claims, seq=receipt.seq, exchanged=case.parent is not None
        )

    def _claims(self, case: Case, granted: Granted) -> AccessClaims:
        applicant, task, lineage = case.applicant, case.task, case.lineage
        agent, iat = applicant.agent, int(applicant.now)
        claims = AccessClaims(
            iss=self._issuer,
            sub=agent.id if lineage is None else lineage.sub,
            aud=granted.audience,
            client_id=agent.id,
            iat=iat,
            exp=iat + granted.ttl,
            jti=self._token_ids.new(applicant.now, listed=case.policy.audiences[granted.audience].status_list),
            scopes=granted.scopes,
            epoch=case.epoch,
            task=self._ids.new("task") if task is None else task.id,
            path=() if task is None else task.path,
            role=granted.role,
            tier=granted.tier,
            issuer=agent.issuer,
            parents=() if lineage is None else lineage.parents,
            agents=() if lineage is None else lineage.agents,
            impersonates=lineage is not None and lineage.impersonates,
            jkt=applicant.ask.jkt,
            details=granted.details,
            may_act=applicant.ask.may_act,
        )
        return claims if case.parent is None else finish(claims, case.parent)
