"""Taking a lease: record the intent, ask the backend, record the seal, and only then hand out (laws 1, 2 and 5)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

from broker.background import Background
from broker.consent import Consent
from broker.core.change import (
    Change,
    EndLease,
    EpochIs,
    LeaseIn,
    Refund,
    SealLease,
    SettleLease,
)
from broker.core.errors import BackendFailed, Code, EpochMoved, GuardFailed, Refused, too_many_rules
from broker.core.lease import REVOKED, UNSEALED, Lease, LeaseState, LeaseStatus, Taken, killer_of
from broker.core.lease_entries import ended_entry, sealed_entry, settled_entry
from broker.core.policy import Policy
from broker.core.task import LEASES
from broker.leasing.intents import MAX_ATTEMPTS, Intent, Intents
from broker.leasing.wish import Case, Leased, LeaseWish
from broker.ports import (
    Admitted,
    Backends,
    Caller,
    Clock,
    Envelope,
    Events,
    Ids,
    LeaseRecords,
    Ledger,
    Meter,
    Records,
    Revocations,
)

_OPENING: Final = frozenset({LeaseStatus.OPENING})

T = TypeVar("T")


class Leasing:
    """Takes leases for the holders of tokens for the broker's own API."""

    def __init__(  # noqa: PLR0913 - a composition root passes each port by name
        self,
        *,
        backends: Backends,
        envelope: Envelope,
        fingerprint_key: bytes,
        consent: Consent,
        policy: Callable[[], Policy],
        revocations: Revocations,
        ledger: Ledger,
        records: Records,
        leases: LeaseRecords,
        clock: Clock,
        ids: Ids,
        meter: Meter,
        events: Events,
    ) -> None:
        """``policy`` returns the one in force; ``fingerprint_key`` keys what is recorded instead of a secret."""
        self._backends = backends
        self._envelope = envelope
        self._fingerprint_key = fingerprint_key
        self._intents = Intents(
            backends=backends,
            consent=consent,
            policy=policy,
            revocations=revocations,
            ledger=ledger,
            records=records,
            clock=clock,
            ids=ids,
            meter=meter,
        )
        self._revocations = revocations
        self._ledger = ledger
        self._records = records
        self._leases = leases
        self._clock = clock
        self._ids = ids
        self._meter = meter
        self._events = events
        self._background = Background()

    async def take(self, wish: LeaseWish, by: Admitted, caller: Caller) -> Leased:
        """Take a lease. The same request again is answered with the lease, but never again with the secret.

        Raises ``Refused`` when the agent may not have it, ``Pending`` when a person has to decide first,
        ``BackendFailed`` when the backend cannot or will not, and ``Unavailable``. Whatever is raised, and whatever
        becomes of the caller, no secret is alive that the ledger does not know.
        """
        wish.check()
        if wish.encrypt_to is not None:
            self._envelope.check(wish.encrypt_to)
        case = Case(lease=self._ids.new("lease"), wish=wish, by=by, caller=caller)
        earlier = await self._earlier(case)
        return await self._background.to_the_end(self._take(case)) if earlier is None else earlier

    def sealed_to(self, leased: Leased, wish: LeaseWish) -> str | None:
        """Return the secret encrypted to the agent's key, if it asked for that and the secret is handed out."""
        if leased.data is None or wish.encrypt_to is None:
            return None
        return self._envelope.seal(leased.data, wish.encrypt_to)

    async def close(self) -> None:
        """Wait for what was begun: a secret that is on its way is sealed, or ended."""
        await self._background.finish()

    # --- the intent -------------------------------------------------------------------------------------------------

    async def _take(self, case: Case) -> Leased:
        handles: dict[str, Mapping[str, str]] = {}
        try:
            intent = await self._intents.make(case, handles)
        except BaseException as error:
            self._clean_up(case, handles)
            if isinstance(error, GuardFailed) and (earlier := await self._earlier(case)) is not None:
                return earlier
            raise
        return await self._fetch(intent)

    async def _earlier(self, case: Case) -> Leased | None:
        """Return the lease that an earlier request with the same idempotency key took, without the secret."""
        known = await self._records.idempotent(case.wish.scoped_key(case.claims))
        if known is None:
            return None
        if known.fingerprint != case.wish.fingerprint():
            raise Refused(Code.IDEMPOTENCY_KEY_REUSED, "this Idempotency-Key was used for another request")
        state = await self._leases.lease(known.ref)
        if state is not None and state.status is LeaseStatus.FAILED:
            text = f"the request with this Idempotency-Key failed ({state.note}): try again with another one"
            raise BackendFailed(Code.BACKEND_UNAVAILABLE, text, retry_after=1)
        return None if state is None else Leased(state=state)

    # --- the secret -------------------------------------------------------------------------------------------------

    async def _fetch(self, intent: Intent) -> Leased:
        """Ask the backend, and record what came of it before anything is handed out."""
        try:
            taken = await intent.backend.take(intent.order, intent.handle)
        except BackendFailed as failed:
            await self._give_up(intent, failed)
            raise
        except BaseException:
            await self._end(intent.lease, UNSEALED)
            raise
        try:
            state = await self._seal(intent, taken)
        except BaseException:
            # It is not known to be recorded, so it must not live; the reaper tries again if this fails.
            self._background.begin(_quietly(intent.backend.revoke(taken.handle)))
            raise
        self._meter.lease("taken", intent.lease.backend)
        return Leased(state=state, data=taken.data)  # the only line that hands out a secret

    async def _give_up(self, intent: Intent, failed: BackendFailed) -> None:
        """Record that no secret came: none was made, or one may have been made that nobody has seen."""
        lease, now = intent.lease, self._clock.now()
        self._meter.lease("failed", lease.backend)
        if failed.uncertain:
            await self._end(lease, UNSEALED, reason=failed.public)
            return
        record = settled_entry(lease, LeaseStatus.FAILED, now, note=failed.public)
        settle = SettleLease(lease_id=lease.id, status=LeaseStatus.FAILED, at=now, note=failed.public)
        change = Change(record, (LeaseIn(lease.id, _OPENING),), (settle, Refund(lease.task, LEASES, 1)))
        await self._ledger.commit(change)
        self._background.begin(_quietly(intent.backend.revoke(intent.handle)))

    async def _seal(self, intent: Intent, taken: Taken) -> LeaseState:
        """Make the secret's handle durable, unless a rule has killed the lease meanwhile."""
        lease = intent.lease
        for _ in range(MAX_ATTEMPTS):
            now, epoch = self._clock.now(), self._revocations.rules.epoch
            state = self._sealed(intent, taken, now)
            killer = killer_of(state, self._revocations.rules)
            if killer is not None:
                await self._end(lease, REVOKED, rule=killer.number, handle=taken.handle)
                raise Refused(Code.LEASE_ENDED, "the lease was revoked while it was being taken")
            seal = SealLease(
                lease_id=lease.id,
                handle=taken.handle,
                fingerprint=state.fingerprint or "",
                expires_at=state.expires_at or 0,
                good_until=state.good_until,
                renewable=taken.renewable,
                revocable=taken.revocable,
            )
            guards = (EpochIs(epoch), LeaseIn(lease.id, _OPENING))
            try:
                await self._ledger.commit(Change(sealed_entry(state, now), guards, (seal,)))
            except EpochMoved:
                continue
            return state
        raise too_many_rules()

    def _sealed(self, intent: Intent, taken: Taken, now: float) -> LeaseState:
        lease, given = intent.lease, taken.lease_seconds
        good_until = None if given is None else int(now) + given
        until = min(int(now) + intent.order.ttl, lease.ends_by)
        return LeaseState(
            lease=lease,
            status=LeaseStatus.LIVE,
            handle=taken.handle,
            expires_at=until if good_until is None else min(until, good_until),
            good_until=good_until,
            revocable=taken.revocable,
            renewable=taken.renewable,
            fingerprint=taken.data.fingerprint(self._fingerprint_key),
        )

    async def _end(
        self,
        lease: Lease,
        because: str,
        *,
        rule: int | None = None,
        handle: Mapping[str, str] | None = None,
        reason: str | None = None,
    ) -> None:
        """Put a lease that was never handed out on the list of what is to be revoked."""
        now = self._clock.now()
        record = ended_entry(lease, because, now, rule=rule, handle=handle, reason=reason)
        end = EndLease(lease_id=lease.id, at=now, because=because, rule=rule, handle=handle)
        await self._ledger.commit(Change(record, (LeaseIn(lease.id, _OPENING),), (end,)))

    # --- cleaning up -------------------------------------------------------------------------------------------------

    def _clean_up(self, case: Case, handles: Mapping[str, Mapping[str, str]]) -> None:
        """End what backends prepared for a lease that never came to be."""
        for name, handle in handles.items():
            self._events.info("lease.not_taken", lease=case.lease, backend=name)
            self._background.begin(_quietly(self._backends.of(name).revoke(handle)))


async def _quietly(revoking: Coroutine[Any, Any, object]) -> None:
    """Try to end something that is recorded to be ended anyway, or that ends by itself."""
    try:
        await revoking
    except BackendFailed:
        return
