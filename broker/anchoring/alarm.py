"""The alarm of one anchor: raised and ended once each, in the log and in the ledger.

Only what somebody must look at is recorded, not each placement: an entry makes a new checkpoint, and that is placed
again. What an anchor does can make one entry in :data:`APART_SECONDS` at most, and one more for its end.
"""

from __future__ import annotations

from typing import Final

from broker.anchoring.station import Means, Station
from broker.core.change import Change
from broker.core.entry import Kind, entry
from broker.core.errors import AnchorFailed, BrokerError, Code

APART_SECONDS: Final = 60.0
"""How far apart the records of two alarms of one anchor are at least."""


class Alarm:
    """Follows whether a station is in alarm, and why."""

    def __init__(self, station: Station, means: Means) -> None:
        """It is quiet at first."""
        self._station = station
        self._means = means
        self._told: Code | None = None
        self._recorded: Code | None = None
        self._recorded_at = float("-inf")

    async def follow(self, now: float) -> bool:
        """Tell of what has changed, if anything has; return whether there is an alarm. ``now``: elapsed seconds."""
        reason = self._station.progress.alarm(now)
        if reason is not None:
            await self._ring(reason, now)
        elif self._told is not None:
            await self._rest()
        return reason is not None

    async def _ring(self, reason: AnchorFailed, now: float) -> None:
        """Tell why there is an alarm, once for each reason; record it as soon as another record is due."""
        if reason.code is not self._told:
            self._told = reason.code
            self._tell(reason, now)
        before = self._recorded
        if reason.code is not before and now - self._recorded_at >= APART_SECONDS:
            # Before it is written, since both the periodic look and the station's own task come here.
            self._recorded, self._recorded_at = reason.code, now
            if not await self._record(Kind.ANCHOR_FAILED, reason):
                self._recorded = before

    async def _rest(self) -> None:
        """Tell that it is over, and record that if it was recorded that it began."""
        self._told = None
        self._means.events.info("anchor.recovered", anchor=self._station.name, size=self._station.progress.size)
        if self._recorded is not None:
            self._recorded = None
            await self._record(Kind.ANCHOR_RECOVERED, None)

    def _tell(self, reason: AnchorFailed, now: float) -> None:
        progress = self._station.progress
        self._means.events.error(
            _EVENTS.get(reason.code, "anchor.lagging"),
            anchor=self._station.name,
            code=reason.code.value,
            reason=reason.public,
            lag_seconds=round(progress.lag_seconds(now), 3),
            lag_entries=progress.lag_entries(),
        )

    async def _record(self, kind: Kind, reason: AnchorFailed | None) -> bool:
        """Put on record; return whether it is."""
        station, now = self._station, self._means.clock.now()
        told = {} if reason is None else {"code": reason.code.value, "reason": reason.public}
        about = {"anchor": station.name, "anchor_kind": station.pace.kind, "size": station.progress.size}
        record = entry(kind, now, **about, **told)
        try:
            await self._means.ledger.commit(Change(record))
        except BrokerError:
            return False
        return True


_EVENTS: Final = {Code.ANCHOR_INCONSISTENT: "anchor.inconsistent", Code.ANCHOR_LOST: "anchor.lost"}
