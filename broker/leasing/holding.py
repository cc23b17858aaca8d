"""Holding leases: looking at them, renewing them, giving them back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from broker.core.change import (
    Change,
    EndLease,
    EpochIs,
    LeaseIn,
    RenewLease,
)
from broker.core.claims import AccessClaims
from broker.core.errors import BackendFailed, Code, EpochMoved, GuardFailed, Refused, too_many_rules
from broker.core.lease import RETURNED, Lease, LeaseState, LeaseStatus, killer_of
from broker.core.lease_entries import (
    ended_entry,
    renewed_entry,
)
from broker.core.policy import Policy
from broker.core.tally import Allowance, Places
from broker.core.task_reach import OPERATOR, reach_of
from broker.leasing.intents import MAX_ATTEMPTS
from broker.leasing.wish import claims_of
from broker.ports import (
    Admitted,
    Backends,
    Caller,
    Clock,
    LeaseFilter,
    LeaseRecords,
    Ledger,
    Meter,
    Records,
    Revocations,
)

GONE: Final = "gone"
"""Why a lease ended that the backend did not know any more when it was to be renewed."""

RENEWALS_PER_MINUTE: Final = 30
"""Renewals of one lease: each asks the backend, and is an entry of the ledger."""

LOOK_SECONDS: Final = 0.1
"""How often it is looked whether the backend has confirmed an end that somebody waits for."""

_LIVE: Final = frozenset({LeaseStatus.LIVE})
_HELD: Final = frozenset({LeaseStatus.RETRYING})
_WAITING: Final = frozenset({LeaseStatus.OPENING, LeaseStatus.LIVE, LeaseStatus.RETRYING})


class Holdings:
    """Leases that were taken, for those who hold them and those who may see them."""

    def __init__(  # noqa: PLR0913 - a composition root passes each port by name
        self,
        *,
        backends: Backends,
        policy: Callable[[], Policy],
        revocations: Revocations,
        ledger: Ledger,
        records: Records,
        leases: LeaseRecords,
        clock: Clock,
        meter: Meter,
    ) -> None:
        """``policy`` returns the one in force."""
        self._backends = backends
        self._policy = policy
        self._revocations = revocations
        self._ledger = ledger
        self._records = records
        self._leases = leases
        self._clock = clock
        self._meter = meter
        self._renewals = Allowance(RENEWALS_PER_MINUTE)
        self._places = Places()

    async def show(self, lease_id: str, by: Admitted) -> LeaseState:
        """Return a lease of the caller's, or any for operators. Raises ``Refused`` (``NOT_FOUND``)."""
        if OPERATOR in by.scopes:
            return await self.stored(lease_id)
        return await self._own(lease_id, by)

    async def index(self, wanted: LeaseFilter, by: Admitted) -> Sequence[LeaseState]:
        """Return leases, the youngest first: the caller's own, or anybody's for operators.

        Raises ``Refused`` (``INSUFFICIENT_SCOPE``) for others' leases.
        """
        if OPERATOR in by.scopes:
            return await self._leases.leases(wanted)
        claims = claims_of(by)
        if wanted.agent not in (None, claims.client_id):
            raise Refused(Code.INSUFFICIENT_SCOPE, "listing others' leases needs the scope operator:read")
        below = wanted.below
        if await self._confined(claims):
            if below not in (None, claims.task):
                raise Refused(Code.INSUFFICIENT_SCOPE, "a token of a task lists the leases of that task only")
            below = claims.task
        return await self._leases.leases(replace(wanted, agent=claims.client_id, below=below))

    async def renew(self, lease_id: str, ttl: int | None, by: Admitted, caller: Caller) -> LeaseState:
        """Let a lease go on for ``ttl`` seconds from now, as far as tier, task, policy and backend allow.

        Raises ``Refused`` (``NOT_FOUND``, ``LEASE_ENDED``, ``LEASE_NOT_RENEWABLE``, ``BLOCKED``,
        ``SECRET_NOT_ALLOWED``), ``BackendFailed`` or ``Unavailable``.
        """
        for _ in range(MAX_ATTEMPTS):
            state = await self._own(lease_id, by)
            epoch, now = self._revocations.rules.epoch, self._clock.now()
            seconds = self._renewable_for(state, ttl, by, now)
            if not self._renewals.admit(lease_id, now):
                raise Refused(Code.RATE_LIMITED, f"no more than {RENEWALS_PER_MINUTE} in a minute", retry_after=60)
            try:
                granted = await self._backends.of(state.lease.backend).renew(state.handle, seconds)
            except BackendFailed as failed:
                if failed.code is Code.LEASE_ENDED:
                    await self._end(state, GONE, caller)
                raise
            good_until = int(now) + granted
            until = min(good_until, int(now) + seconds)
            renew = RenewLease(lease_id, until, good_until)
            record = renewed_entry(state.lease, until, good_until, now, caller.members())
            try:
                await self._ledger.commit(Change(record, (EpochIs(epoch), LeaseIn(lease_id, _LIVE)), (renew,)))
            except EpochMoved:
                continue
            self._meter.lease("renewed", state.lease.backend)
            return replace(state, expires_at=until, good_until=good_until)
        raise too_many_rules()

    async def give_back(self, lease_id: str, by: Admitted, caller: Caller, *, wait: float = 0) -> LeaseState:
        """End a lease. Returns what has become of it, having waited ``wait`` seconds for the backend at most.

        One that is held is let go by this. Giving it back again changes nothing. Raises ``Refused`` (``NOT_FOUND``;
        ``CONFLICT`` while it is being taken).
        """
        state = await self._own(lease_id, by)
        if state.status is LeaseStatus.OPENING:
            raise Refused(Code.CONFLICT, "the lease is still being taken", retry_after=1)
        if state.status is LeaseStatus.LIVE or state.held:
            await self._end(state, RETURNED, caller)
        with self._places.taking(by.agent.id) as has_place:
            return await self._awaited(lease_id, wait if has_place else 0)

    def _renewable_for(self, state: LeaseState, ttl: int | None, by: Admitted, now: float) -> int:
        """Return for how many seconds from ``now`` a lease may go on. Raises ``Refused`` if it may not."""
        lease, rules = state.lease, self._revocations.rules
        if state.status is not LeaseStatus.LIVE or (state.expires_at or 0) <= now:
            raise Refused(Code.LEASE_ENDED, "the lease has ended")
        claims = claims_of(by)
        if killer_of(state, rules) is not None or rules.killer(claims.facts(by.kid), claims.epoch) is not None:
            raise Refused(Code.LEASE_ENDED, "the lease has been revoked")
        block = self._revocations.blocks.refusing(lease.facts, now)
        if block is not None:
            raise Refused(Code.BLOCKED, f"blocked by an operator: {block.id}")
        role = self._policy().roles.get(lease.role)
        allow = None if role is None else role.secrets.get(lease.secret)
        if allow is None or allow.secret.backend != lease.backend:
            raise Refused(Code.SECRET_NOT_ALLOWED, "the policy does not allow this secret any more")
        if not state.renewable:
            raise Refused(Code.LEASE_NOT_RENEWABLE, "the backend does not renew this")
        ends_by = min(lease.ends_by, int(lease.taken_at) + allow.ttl)
        seconds = min(allow.ttl if ttl is None else ttl, ends_by - int(now))
        if seconds < 1:
            raise Refused(Code.LEASE_ENDED, "the lease has reached its longest life")
        return seconds

    async def _end(self, state: LeaseState, because: str, caller: Caller) -> None:
        """Put a live or held lease on the list of what is to be revoked, unless somebody else just did."""
        lease, now = state.lease, self._clock.now()
        end = EndLease(lease_id=lease.id, at=now, because=because)
        record = ended_entry(lease, because, now, origin=caller.members())
        try:
            await self._ledger.commit(Change(record, (LeaseIn(lease.id, _HELD if state.held else _LIVE),), (end,)))
        except GuardFailed as failed:
            if failed.code is not Code.LEASE_ENDED:
                raise

    async def _awaited(self, lease_id: str, seconds: float) -> LeaseState:
        for _ in range(int(seconds / LOOK_SECONDS)):
            state = await self.stored(lease_id)
            if state.status not in _WAITING:
                return state
            await asyncio.sleep(LOOK_SECONDS)
        return await self.stored(lease_id)

    async def _own(self, lease_id: str, by: Admitted) -> LeaseState:
        """Return a lease that the caller holds; with a token of a task, only one of that task."""
        state, claims = await self.stored(lease_id), claims_of(by)
        if state.lease.agent != claims.client_id or state.lease.on_behalf_of != claims.sub:
            raise _not_found()
        if await self._confined(claims) and not _is_below(state.lease, claims.task):
            raise _not_found()
        return state

    async def _confined(self, claims: AccessClaims) -> bool:
        own = await self._records.task(claims.task)
        return reach_of(claims, None if own is None else own.task).confined

    async def stored(self, lease_id: str) -> LeaseState:
        """Return a lease, whoever asks. Raises ``Refused`` (``NOT_FOUND``)."""
        state = await self._leases.lease(lease_id)
        if state is None:
            raise _not_found()
        return state


def _is_below(lease: Lease, task: str) -> bool:
    return task == lease.task or task in lease.path


def _not_found() -> Refused:
    """Return the one answer about leases that do not exist, and about those of others."""
    return Refused(Code.NOT_FOUND, "there is no such lease")
