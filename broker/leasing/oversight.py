"""Oversight of leases: what operators see of revocations, and what they do about leases that went wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from broker.core.change import Change, EndLease, LeaseIn, ReleaseHeldLeases, RetryLease, SettleLease
from broker.core.errors import Code, GuardFailed, Malformed, Refused
from broker.core.lease import ENDING, LeaseState, LeaseStatus
from broker.core.lease_entries import confirmed_entry, ended_entry, prefix_entry, retried_entry, settled_entry
from broker.core.revoking import check_text
from broker.ports import Admitted, Backends, Caller, Clock, LeaseRecords, Ledger, Meter

PREFIX: Final = "prefix"
"""Why a lease ended when everything below a path of its backend was revoked."""

MAX_PREFIX: Final = 512

_LIVE: Final = frozenset({LeaseStatus.LIVE})


class Oversight:
    """Leases of everybody, for operators."""

    def __init__(
        self,
        *,
        backends: Backends,
        ledger: Ledger,
        leases: LeaseRecords,
        clock: Clock,
        meter: Meter,
    ) -> None:
        """``backends`` is asked to revoke below a path; what is to be revoked otherwise, the reaper is left to do."""
        self._backends = backends
        self._ledger = ledger
        self._leases = leases
        self._clock = clock
        self._meter = meter

    async def outcomes(self, rule: int) -> Mapping[LeaseStatus, int]:
        """Return how many of the leases that a rule ended are in each state. Raises ``Unavailable``."""
        return await self._leases.lease_outcomes(rule)

    async def retry(self, lease_id: str, by: Admitted, caller: Caller) -> LeaseState:
        """Let revoking a lease be tried again from the beginning. Raises ``Refused`` or ``GuardFailed``."""
        state, now = await self._stored(lease_id), self._clock.now()
        record = retried_entry(state.lease, by.agent.id, now, caller.members())
        await self._ledger.commit(Change(record, (LeaseIn(lease_id, ENDING),), (RetryLease(lease_id, now),)))
        return await self._stored(lease_id)

    async def abandon(self, lease_id: str, reason: str, by: Admitted, caller: Caller) -> LeaseState:
        """Give up revoking a lease: somebody has seen to it otherwise. Raises ``Refused`` or ``GuardFailed``."""
        check_text("reason", reason)
        state, now = await self._stored(lease_id), self._clock.now()
        status = LeaseStatus.ABANDONED
        record = settled_entry(state.lease, status, now, note=reason, by=by.agent.id, origin=caller.members())
        settle = SettleLease(lease_id=lease_id, status=status, at=now, note=reason)
        await self._ledger.commit(Change(record, (LeaseIn(lease_id, ENDING),), (settle,)))
        self._meter.lease(status.value, state.lease.backend)
        return await self._stored(lease_id)

    async def confirm(self, reason: str, by: Admitted, caller: Caller) -> None:
        """Let leases be revoked that were held because an older ledger was restored."""
        check_text("reason", reason)
        now = self._clock.now()
        record = confirmed_entry(by.agent.id, reason, now, caller.members())
        await self._ledger.commit(Change(record, (), (ReleaseHeldLeases(now),)))

    async def revoke_prefix(self, backend: str, prefix: str, reason: str, by: Admitted, caller: Caller) -> int:
        """End everything below a path of a backend, whoever took it; return how many leases of the broker's that were.

        These are on the list of what is to be revoked by then, so that each gets its outcome. The order is recorded
        before it is carried out. Raises ``Malformed``, ``BackendFailed`` or ``Unavailable``.
        """
        check_text("reason", reason)
        prefix = prefix.strip("/")
        if not 0 < len(prefix) <= MAX_PREFIX or not prefix.isprintable():
            raise Malformed(f"prefix: must be printable text of 1 to {MAX_PREFIX} characters")
        self._backends.of(backend)
        now = self._clock.now()
        await self._ledger.commit(Change(prefix_entry(backend, prefix, by.agent.id, reason, now, caller.members())))
        ended = 0
        after = ""
        while page := await self._leases.running_leases(after=after):
            after = page[-1].lease.id
            hit = [state for state in page if state.lease.backend == backend and _is_under(state, prefix)]
            await asyncio.gather(*(self._end(state, caller) for state in hit))
            ended += len(hit)
        await self._backends.revoke_prefix(backend, prefix)
        return ended

    async def _end(self, state: LeaseState, caller: Caller) -> None:
        """Put a live lease on the list of what is to be revoked, unless somebody else just did."""
        lease, now = state.lease, self._clock.now()
        end = EndLease(lease_id=lease.id, at=now, because=PREFIX)
        record = ended_entry(lease, PREFIX, now, origin=caller.members())
        try:
            await self._ledger.commit(Change(record, (LeaseIn(lease.id, _LIVE),), (end,)))
        except GuardFailed as failed:
            if failed.code is not Code.LEASE_ENDED:
                raise

    async def _stored(self, lease_id: str) -> LeaseState:
        state = await self._leases.lease(lease_id)
        if state is None:
            raise Refused(Code.NOT_FOUND, "there is no such lease")
        return state


def _is_under(state: LeaseState, prefix: str) -> bool:
    path = state.handle.get("path", "")
    return state.status is LeaseStatus.LIVE and (path == prefix or path.startswith(f"{prefix}/"))
