"""The intent of a lease: decided, allowed by whoever must, prepared at the backend, and durable before it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from broker.consent import Consent
from broker.core.change import (
    AddLease,
    Change,
    EpochIs,
    Guard,
    LeasesWithin,
    RateWithin,
    Spend,
    TaskOpen,
)
from broker.core.errors import (
    BackendFailed,
    BrokerError,
    Code,
    EpochMoved,
    GuardFailed,
    Refused,
    too_many_rules,
)
from broker.core.grant import Denied
from broker.core.implicit_task import lease_task
from broker.core.lease import Lease, LeaseOrder
from broker.core.lease_decision import Ground, LeaseGranted, decide_lease
from broker.core.policy import Policy
from broker.core.tally import Allowance
from broker.core.task import LEASES, Task
from broker.core.task_reach import reach_of
from broker.leasing.leave import Leave, Leaves
from broker.leasing.records import intended_entry, refused_entry
from broker.leasing.wish import Case
from broker.ports import Backend, Backends, Clock, Ids, Ledger, Meter, Records, Revocations

MAX_ATTEMPTS: Final = 16
"""How often one request is decided again because revocations got in between, before it is told to come back."""

RECORDED_REFUSALS: Final = 60
"""Refusals per agent and minute that get an entry of their own; more are only counted."""

PREPARED_PER_MINUTE: Final = 300
"""Requests of one agent that reach a backend in a minute, whether or not a lease comes of them."""

_NO_TASK: Final = "there is no such task, or it is not open, or it is not this agent's"


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A lease to be, the backend to ask, what for, and the handle that ends whatever comes of that."""

    lease: Lease
    order: LeaseOrder
    backend: Backend
    handle: Mapping[str, str]


class Intents:
    """Makes intents durable."""

    def __init__(  # noqa: PLR0913 - a composition root passes each port by name
        self,
        *,
        backends: Backends,
        consent: Consent,
        policy: Callable[[], Policy],
        revocations: Revocations,
        ledger: Ledger,
        records: Records,
        clock: Clock,
        ids: Ids,
        meter: Meter,
    ) -> None:
        """``policy`` returns the one in force."""
        self._backends = backends
        self._consent = consent
        self._leaves = Leaves(consent=consent, records=records, policy=policy, ids=ids)
        self._policy = policy
        self._revocations = revocations
        self._ledger = ledger
        self._records = records
        self._clock = clock
        self._ids = ids
        self._meter = meter
        self._recorded = Allowance(RECORDED_REFUSALS)
        self._prepared = Allowance(PREPARED_PER_MINUTE)

    async def make(self, case: Case, handles: dict[str, Mapping[str, str]]) -> Intent:
        """Decide until the decision is durable. ``handles`` is given what backends were made to prepare, by their name.

        Raises as :meth:`Leasing.take` does; refusals are recorded.
        """
        for _ in range(MAX_ATTEMPTS):
            task, stored = await self._task(case)
            ground = self._ground(case, task)
            try:
                return await self._attempt(case, ground, handles, stored=stored)
            except EpochMoved:
                continue
            except (Refused, GuardFailed, BackendFailed) as error:
                raise await self._refusal(case, ground, error) from error
        raise too_many_rules()

    async def _attempt(
        self, case: Case, ground: Ground, handles: dict[str, Mapping[str, str]], *, stored: bool
    ) -> Intent:
        """Decide once and record it. Raises ``EpochMoved`` if the rules changed before it was durable."""
        epoch, decision = ground.rules.epoch, decide_lease(ground, case.wish.ask(case.lease))
        if isinstance(decision, Denied):
            raise Refused(decision.code, decision.reason)
        leave = await self._leaves.get(case, ground, decision, stored=stored)
        lease = _lease(case, ground, decision, epoch)
        order = _order(lease, ground, decision)
        backend = self._backends.of(lease.backend)
        handle = handles.get(lease.backend)
        if handle is None:
            if not self._prepared.admit(lease.agent, ground.now):
                raise Refused(Code.RATE_LIMITED, f"no more than {PREPARED_PER_MINUTE} in a minute", retry_after=60)
            handle = handles[lease.backend] = await backend.prepare(order)
        if self._policy() is not ground.policy:
            raise EpochMoved  # asking people and the backend took so long that the policy is another one now
        intent = Intent(lease=lease, order=order, backend=backend, handle=handle)
        await self._record(case, ground, decision, leave, intent, stored=stored)
        return intent

    async def _record(
        self, case: Case, ground: Ground, granted: LeaseGranted, leave: Leave, intent: Intent, *, stored: bool
    ) -> None:
        claims, task, limits, lease = ground.claims, ground.task, granted.role.limits, intent.lease
        guards: list[Guard] = [
            EpochIs(lease.epoch),
            RateWithin(f"agent/{lease.role}/{claims.client_id}", limits.tokens_per_minute, ground.now),
            TaskOpen(task.id, ground.now, implicit=None if stored else task, holds_until=lease.ends_by),
            Spend(task.id, LEASES, 1, limited=task.budget.limits_resource(LEASES)),
            case.wish.fresh(claims, lease.id, ground.now),
            *leave.guards,
        ]
        if limits.live_leases is not None:
            guards.append(LeasesWithin(claims.client_id, lease.role, limits.live_leases))
        record = intended_entry(case, ground, granted, lease, leave.why)
        try:
            await self._ledger.commit(Change(record, tuple(guards), (AddLease(lease, intent.handle), *leave.writes)))
        except GuardFailed as failed:
            if failed.code is Code.BUDGET_USED_UP:
                raise await self._leaves.for_budget(case, ground, failed) from failed
            raise
        if leave.unasked is not None:
            self._consent.announce_break_glass(leave.unasked)

    def _ground(self, case: Case, task: Task) -> Ground:
        """Return what is decided on, all of it as of this moment."""
        return Ground(
            policy=self._policy(),
            rules=self._revocations.rules,
            blocks=self._revocations.blocks,
            claims=case.claims,
            kid=case.by.kid,
            task=task,
            now=self._clock.now(),
        )

    async def _task(self, case: Case) -> tuple[Task, bool]:
        """Return the task that the lease is to belong to, and whether it is stored.

        It is the one that was named, if that is the token's own, one below it, or (for a token of one's own) one that
        its holder opened; else the token's, or one that is made for this lease.
        """
        claims, named = case.claims, case.wish.task
        own = await self._records.task(claims.task)
        reach = reach_of(claims, None if own is None else own.task)
        if named is None and not reach.confined:
            role = self._policy().roles.get(claims.role)
            if role is None:
                raise Refused(Code.NO_ROLE, "the policy does not have the role of this token any more")
            return lease_task(self._ids.new("task"), claims, role.limits, self._clock.now()), False
        state = own if named in (None, claims.task) else await self._records.task(named or "")
        if state is None:
            raise Refused(Code.TASK_NOT_OPEN, _NO_TASK)
        task = state.task
        if reach.is_below(task) or (not reach.confined and task.owner == reach.agent):
            return task, True
        raise Refused(Code.TASK_NOT_OPEN, _NO_TASK)

    async def _refusal(self, case: Case, ground: Ground, error: BrokerError) -> BrokerError:
        """Record a refusal and return what to raise; an agent that is refused all the time gets no more entries."""
        if error.code in {Code.IDEMPOTENCY_KEY_IN_USE, Code.IDEMPOTENCY_KEY_REUSED}:
            return error
        self._meter.refused(error.code.value)
        if not self._recorded.admit(ground.claims.client_id, ground.now):
            return error
        refusal = self._ids.new("ref")
        await self._ledger.commit(Change(refused_entry(case, ground, refusal, error.code.value, error.public)))
        if isinstance(error, BackendFailed):
            return error
        return Refused(error.code, error.public, refusal=refusal, retry_after=error.retry_after)


def _lease(case: Case, ground: Ground, granted: LeaseGranted, epoch: int) -> Lease:
    claims, task, secret = ground.claims, ground.task, granted.allow.secret
    return Lease(
        id=case.lease,
        secret=secret.name,
        backend=secret.backend,
        tier=secret.tier.name,
        agent=claims.client_id,
        issuer=claims.issuer,
        role=granted.role.name,
        on_behalf_of=claims.sub,
        task=task.id,
        path=task.path,
        facts=granted.facts,
        epoch=epoch,
        taken_at=ground.now,
        ends_by=granted.ends_by,
        allowed_by=granted.allow.path,
        token=claims.jti,
    )


def _order(lease: Lease, ground: Ground, granted: LeaseGranted) -> LeaseOrder:
    return LeaseOrder(
        lease=lease.id,
        secret=lease.secret,
        settings=granted.allow.secret.settings,
        ttl=granted.ttl,
        ends_by=lease.ends_by,
        agent=lease.agent,
        role=lease.role,
        task=lease.task,
        task_ends=ground.task.deadline,
        on_behalf_of=lease.on_behalf_of,
    )
