"""Issuing identity tokens: like access tokens, recorded before they are released; those who take them know no rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from broker.consent import Consent
from broker.core.access_token import VerifiedToken
from broker.core.change import Change, EpochIs, Guard, RateWithin
from broker.core.entry import Kind
from broker.core.errors import Code, EpochMoved, GuardFailed, Refused, too_many_rules
from broker.core.grant import Denied
from broker.core.identity_decision import IdentityGranted, IdentityGround, decide_identity
from broker.core.identity_token import IdentityClaims
from broker.core.policy import Policy
from broker.core.task import Task
from broker.issuance.applicants import Applicant, Applicants, TokenRequest
from broker.issuance.case import implicit_of, may_work_on, spending
from broker.issuance.conductor import MAX_ATTEMPTS
from broker.issuance.intake import Intake
from broker.issuance.leave import Leave, Leaves, Plea
from broker.issuance.records import identity_entry
from broker.ports import Caller, Clock, IdentitySigner, Ids, Ledger, Meter, Records, Revocations


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedIdentity:
    """A released identity token: durable in the ledger at ``seq``."""

    token: str = field(repr=False)
    claims: IdentityClaims
    seq: int


class IdentityTokens:
    """Answers token exchanges (RFC 8693) that ask for an identity token."""

    def __init__(  # noqa: PLR0913 - a composition root passes each port by name
        self,
        *,
        issuer: str,
        applicants: Applicants,
        intake: Intake,
        consent: Consent,
        policy: Callable[[], Policy],
        revocations: Revocations,
        signer: IdentitySigner,
        ledger: Ledger,
        records: Records,
        clock: Clock,
        ids: Ids,
        meter: Meter,
    ) -> None:
        """``issuer`` is the configured public URL; ``policy`` returns the one in force."""
        self._issuer = issuer
        self._applicants = applicants
        self._intake = intake
        self._leaves = Leaves(consent=consent, records=records, policy=policy, ids=ids)
        self._policy = policy
        self._revocations = revocations
        self._signer = signer
        self._ledger = ledger
        self._clock = clock
        self._ids = ids
        self._meter = meter

    async def issue(self, request: TokenRequest, caller: Caller) -> IssuedIdentity:
        """Answer one exchange.

        Raises ``Refused`` when the agent may not have it, ``Pending`` when people may lift the budget that is used up,
        and ``Unavailable`` when it cannot be had now. Whatever is raised, no identity token exists that the ledger does
        not record.
        """
        for _ in range(MAX_ATTEMPTS):
            task = await self._intake.stored_task(request)
            applicant = await self._intake.identify(request, caller)
            try:
                return await self._attempt(applicant, task)
            except EpochMoved:
                continue
            except (Refused, GuardFailed) as error:
                raise await self._intake.refusal(applicant, error, Kind.IDENTITY_TOKEN_REFUSED) from error
        raise too_many_rules()

    async def _attempt(self, applicant: Applicant, task: Task | None) -> IssuedIdentity:
        """Decide once and act on it. Raises ``EpochMoved`` if the rules changed before it was durable."""
        ground, epoch = self._ground(applicant, task), self._revocations.rules.epoch
        granted = decide_identity(ground, applicant.agent, applicant.ask)
        if isinstance(granted, Denied):
            raise Refused(granted.code, granted.reason)
        plea = _plea(applicant, ground, granted)
        leave = await self._leaves.for_budget(plea)
        self._intake.check_fresh(applicant, ground.policy)
        try:
            return await self._release(applicant, ground, granted, epoch, leave)
        except GuardFailed as failed:
            if failed.code is Code.BUDGET_USED_UP:
                raise await self._leaves.ask_for_budget(plea, failed) from failed
            raise

    def _ground(self, applicant: Applicant, task: Task | None) -> IdentityGround:
        """Return what is decided on, all of it as of this moment. Raises ``Refused``."""
        policy, parent = self._policy(), self._parent(applicant)
        task = task or implicit_of(policy, parent.claims, applicant.ask.task)
        if task is None or not may_work_on(task, applicant, parent):
            text = "there is no such task, or it is not open, or it is not this agent's"
            raise Refused(Code.TASK_NOT_OPEN, text)
        return IdentityGround(
            policy=policy,
            rules=self._revocations.rules,
            blocks=self._revocations.blocks,
            parent=parent,
            task=task,
            now=applicant.now,
        )

    def _parent(self, applicant: Applicant) -> VerifiedToken:
        parent = self._applicants.parent(applicant)
        if parent is None:
            raise Refused(Code.SUBJECT_TOKEN_INVALID, "subject_token: must be an access token of this broker")
        return parent

    async def _release(
        self, applicant: Applicant, ground: IdentityGround, granted: IdentityGranted, epoch: int, leave: Leave
    ) -> IssuedIdentity:
        """Mint, check, record, and only then release."""
        claims = self._claims(applicant, ground, granted)
        minted = self._signer.mint_checked(claims, applicant.now)
        record = identity_entry(applicant, ground, granted, claims, minted.kid, **leave.why)
        guards: tuple[Guard, ...] = (
            EpochIs(epoch),
            *applicant.guards,
            *_rates(applicant, granted),
            *spending(ground.task, claims.exp, applicant.now),
        )
        receipt = await self._ledger.commit(Change(record, guards))
        self._meter.issued(granted.role.name, applicant.who.method)
        return IssuedIdentity(  # the only line that releases an identity token
            token=minted.token, claims=claims, seq=receipt.seq
        )

    def _claims(self, applicant: Applicant, ground: IdentityGround, granted: IdentityGranted) -> IdentityClaims:
        lineage, iat = granted.lineage, int(applicant.now)
        return IdentityClaims(
            iss=self._issuer,
            sub=lineage.sub,
            aud=granted.allow.audience,
            iat=iat,
            exp=iat + granted.ttl,
            jti=self._ids.new("idt"),
            agent=applicant.agent.id,
            task=ground.task.id,
            role=granted.role.name,
            actors=() if lineage.impersonates else lineage.agents,
            more=granted.allow.claims,
            groups=granted.allow.groups,
        )


def _plea(applicant: Applicant, ground: IdentityGround, granted: IdentityGranted) -> Plea:
    """Return the request as people are shown it, who may lift the budget of its task."""
    parent = ground.parent.claims
    return Plea(applicant=applicant, role=granted.role.name, tier=parent.tier, parent=parent, task=ground.task)


def _rates(applicant: Applicant, granted: IdentityGranted) -> list[RateWithin]:
    """Return how many there may be of the agent and of its role, tokens of any kind."""
    role, now = granted.role, applicant.now
    rates = [RateWithin(f"agent/{role.name}/{applicant.agent.id}", role.limits.tokens_per_minute, now)]
    if role.limits.role_tokens_per_minute is not None:
        rates.append(RateWithin(f"role/{role.name}", role.limits.role_tokens_per_minute, now))
    return rates
