"""The reaper: every lease that should be dead is revoked at its backend, at least once, with an honest word about it.

The work list is in the ledger: leases that expired, were given back, or were never sealed, and those that a rule
covers. Several are revoked at once, but no backend holds up another, and no lease holds up the next.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Final

from broker.core.change import Change, EndLease, LeaseIn, MissLease, SettleLease
from broker.core.errors import BackendFailed, BrokerError, Code, GuardFailed, Unavailable
from broker.core.lease import EXPIRED, REVOKED, UNSEALED, Ended, LeaseState, LeaseStatus, killer_of
from broker.core.lease_entries import ended_entry, missed_entry, settled_entry
from broker.core.pacing import Backoff
from broker.core.rules import Rule
from broker.ports import Backends, Clock, Events, LeaseFilter, LeaseRecords, Ledger, Meter, Revocations

OPENING_SECONDS: Final = 180.0
"""Seconds after which a lease that is still being taken is taken for lost; no backend is waited for that long."""

PENDING_SECONDS: Final = 1.0
"""How long a rule is waited for to become durable, before what it covers is revoked without a record of that."""

LOST_SECONDS: Final = 10.0
"""How often it is looked for leases that nobody is taking any more."""

QUIET_SECONDS: Final = 0.5
"""How often it is looked for work when nothing was added to the ledger: leases expire, and pauses end."""

WIDTH: Final = 256
"""How many leases of one backend are taken up at once: more than it ends until it is looked for work again.

How many of them it is really asked for at once, the backend's settings say.
"""

TOGETHER_SECONDS: Final = 0.02
"""Outcomes that come so soon after one another are recorded in one transaction, while several are under way."""

PAGE: Final = 500

_RUNNING: Final = frozenset({LeaseStatus.OPENING, LeaseStatus.LIVE})
_RETRYING: Final = frozenset({LeaseStatus.RETRYING})
_REASON: Final = 200


class Reaper:
    """Ends leases. :meth:`step` is called again and again; what it starts goes on in the background."""

    def __init__(  # noqa: PLR0913 - a composition root passes each port by name
        self,
        *,
        backends: Backends,
        revocations: Revocations,
        ledger: Ledger,
        leases: LeaseRecords,
        clock: Clock,
        spread: Callable[[], float],
        meter: Meter,
        events: Events,
        attempts: int,
        backoff: Backoff,
        entries: Callable[[], int],
        since: float | None,
    ) -> None:
        """``attempts`` is how often revoking fails before it is given up; ``spread`` returns a random number in [0, 1).

        ``entries`` says how many entries the ledger has, without reading it: while none are added, it is looked for
        work only now and then. ``since`` (Unix seconds) is when the first of the processes can have begun that serve
        this ledger now: what was begun to be taken before is lost. None: this process is alone.
        """
        self._backends = backends
        self._revocations = revocations
        self._ledger = ledger
        self._leases = leases
        self._clock = clock
        self._spread = spread
        self._meter = meter
        self._events = events
        self._attempts = attempts
        self._backoff = backoff
        self._entries = entries
        self._seen: tuple[int, int, int] | None = None
        self._looked_at = 0.0
        self._started = clock.now() if since is None else since
        self._swept: tuple[int, int] | None = None
        self._unwritten = False
        self._unrecorded: set[str] = set()
        self._searched_at: float | None = None
        self._together: asyncio.Event | None = None
        self._under_way: defaultdict[str, dict[str, asyncio.Task[None]]] = defaultdict(dict)

    async def step(self) -> None:
        """Find out what has ended, and start revoking it. Raises ``Unavailable`` if the ledger cannot be read."""
        rules, now = self._revocations.rules, self._clock.now()
        seen = (self._entries(), rules.epoch, len(rules))
        if seen == self._seen and 0 <= now - self._looked_at < QUIET_SECONDS:
            return
        await self._sweep()
        await self._expire()
        await self._settle_lost()
        self._seen, self._looked_at = seen, now
        for backend in await self._leases.lease_backends(now):
            if self._is_free(backend):
                mine = self._under_way[backend]
                for state in await self._leases.lease_work(backend, now, WIDTH - len(mine), without=frozenset(mine)):
                    self._start(state)

    async def close(self) -> None:
        """Stop. What is being revoked is begun again by the next process."""
        running = [task for tasks in self._under_way.values() for task in tasks.values()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    # --- what has ended ---------------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        """End every live lease that a rule covers; looks at them only when there is a new rule, and once at the start.

        Held ones are let go by a rule. Those that are still being taken are left to whoever takes them, who looks at
        the rules before the seal.
        """
        rules = self._revocations.rules
        seen = (rules.epoch, len(rules))
        if seen == self._swept:
            return
        after, self._unwritten = "", False
        while page := await self._leases.running_leases(after=after, limit=PAGE):
            after = page[-1].lease.id
            killed = [(state, killer_of(state, rules)) for state in page if state.status is not LeaseStatus.OPENING]
            await asyncio.gather(*(self._end_killed(state, rule) for state, rule in killed if rule is not None))
            if len(page) < PAGE:
                break
        self._swept = None if self._unwritten else seen

    async def _end_killed(self, state: LeaseState, rule: Rule) -> None:
        """End a lease by a rule, once that is durable.

        If the ledger cannot be written, the secret is revoked all the same; that is recorded when it can be (law 1).
        """
        if rule.number is not None:
            try:
                await self._end(state, REVOKED, rule=rule.number)
            except Unavailable:
                self._start_unrecorded(state)
            else:
                return
        elif self._clock.now() - rule.at > PENDING_SECONDS:
            self._start_unrecorded(state)
        self._unwritten = True

    def _start_unrecorded(self, state: LeaseState) -> None:
        """Revoke a lease that the ledger cannot tell to be ending; once its backend has, that waits for the record."""
        if state.lease.id not in self._unrecorded:
            self._start(state)

    async def _expire(self) -> None:
        now = self._clock.now()
        over = await self._leases.over_leases(now, PAGE)
        await asyncio.gather(*(self._end(state, EXPIRED) for state in over))

    async def _settle_lost(self) -> None:
        """End what was begun to be taken and never sealed: by earlier processes, or longer ago than anybody waits."""
        now = self._clock.now()
        if self._searched_at is not None and 0 <= now - self._searched_at < LOST_SECONDS:
            return
        opening = await self._leases.leases(LeaseFilter(status=LeaseStatus.OPENING, limit=PAGE))
        lost = [state for state in opening if self._is_lost(state, now)]
        await asyncio.gather(*(self._end(state, UNSEALED) for state in lost))
        self._searched_at = now

    def _is_lost(self, state: LeaseState, now: float) -> bool:
        """Whether nobody is taking this lease any more, although it was never sealed."""
        taken_at = state.lease.taken_at
        return taken_at < self._started or not now - OPENING_SECONDS < taken_at <= now + OPENING_SECONDS

    async def _end(self, state: LeaseState, because: str, *, rule: int | None = None) -> None:
        """Put a lease on the list of what is to be revoked, unless somebody else just did."""
        lease, now = state.lease, self._clock.now()
        record = ended_entry(lease, because, now, rule=rule)
        end = EndLease(lease_id=lease.id, at=now, because=because, rule=rule)
        try:
            await self._ledger.commit(
                Change(record, (LeaseIn(lease.id, _RETRYING if state.held else _RUNNING),), (end,))
            )
        except GuardFailed:
            return

    # --- revoking ---------------------------------------------------------------------------------------------------

    def _start(self, state: LeaseState) -> None:
        """Revoke a lease in the background, unless that is being done, or its backend is not to be asked now."""
        lease = state.lease
        mine = self._under_way[lease.backend]
        if lease.id in mine or not self._is_free(lease.backend):
            return
        task = asyncio.ensure_future(self._revoke(state))
        mine[lease.id] = task
        task.add_done_callback(lambda _: mine.pop(lease.id, None))

    def _is_free(self, backend: str) -> bool:
        return len(self._under_way[backend]) < WIDTH and self._backends.ends_secrets(backend)

    async def _revoke(self, state: LeaseState) -> None:
        lease = state.lease
        try:
            ended = await self._backends.of(lease.backend).revoke(state.handle)
        except BackendFailed as failed:
            # That a backend is out of order says nothing about the lease: it is asked again once it is back.
            if failed.code is not Code.BACKEND_UNAVAILABLE or self._backends.ends_secrets(lease.backend):
                await self._record(self._missed(state, failed))
        except Exception as error:  # noqa: BLE001 - one failing lease never stops the others
            self._events.error("lease.revoking_failed", lease=lease.id, exc_info=error)
            await self._record(self._missed(state, BackendFailed(Code.INTERNAL, "an internal error of the broker")))
        else:
            recorded = await self._record(self._settled(state, ended))
            (self._unrecorded.discard if recorded else self._unrecorded.add)(lease.id)

    def _missed(self, state: LeaseState, failed: BackendFailed) -> Change:
        lease, now, attempts = state.lease, self._clock.now(), state.attempts + 1
        error = failed.public[:_REASON]
        pause = max(self._backoff.delay(attempts - 1, self._spread()), failed.retry_after or 0)
        again = None if attempts >= self._attempts else now + pause
        self._meter.lease("missed" if again is not None else LeaseStatus.STUCK.value, lease.backend)
        if again is None:
            self._events.error("lease.stuck", lease=lease.id, secret=lease.secret, backend=lease.backend, reason=error)
        record = missed_entry(lease, error, attempts, again, now)
        miss = MissLease(lease_id=lease.id, error=error, next_attempt_at=again)
        return Change(record, (LeaseIn(lease.id, _RETRYING),), (miss,))

    def _settled(self, state: LeaseState, ended: Ended) -> Change:
        lease, now = state.lease, self._clock.now()
        status = LeaseStatus.REVOKED if ended.revoked else LeaseStatus.EXPIRES_ONLY
        self._meter.lease(status.value, lease.backend)
        if ended.revoked:
            self._meter.lease_ended(lease.backend, max(0.0, now - (state.ended_at or now)))
        record = settled_entry(lease, status, now, note=ended.note, good_until=ended.expires_at)
        settle = SettleLease(lease_id=lease.id, status=status, at=now, note=ended.note, good_until=ended.expires_at)
        return Change(record, (LeaseIn(lease.id, _RETRYING),), (settle,))

    async def _record(self, change: Change) -> bool:
        """Record an outcome, and say whether it was. If not, the lease is still on the list, and revoked once more."""
        if sum(map(len, self._under_way.values())) > 1:
            await self._joined()
        try:
            await self._ledger.commit(change)
        except BrokerError as error:
            self._events.error("lease.not_recorded", code=error.code.value)
            return False
        return True

    async def _joined(self) -> None:
        """Wait for the outcomes that come within a moment, so that all of them are recorded together."""
        if self._together is None:
            self._together = asyncio.Event()
            asyncio.get_running_loop().call_later(TOGETHER_SECONDS, self._let_go, self._together)
        await self._together.wait()

    def _let_go(self, together: asyncio.Event) -> None:
        self._together = None
        together.set()
