"""All anchors: each at its own pace, none able to hold up another, or anything else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from broker.anchoring.alarm import Alarm
from broker.anchoring.station import Means, OpenNote, Pace, Station, failure_of, held_by
from broker.background import Background
from broker.core.errors import AnchorFailed, BrokerError
from broker.ports import Anchor, Placement, SignedHead

FOLLOW_SECONDS: Final = 1.0
"""How often a process that does not lead asks whether it does by now."""

LOOK_SECONDS: Final = 4.0
"""How long whoever asks what the anchors hold waits for them. One that takes longer does not say."""

STOP_SECONDS: Final = 5.0
"""How long the anchors have to take the last checkpoint when the broker stops."""

Known = SignedHead | AnchorFailed | None
"""What an anchor holds, that it does not say so now, or that it holds nothing or never says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorState:
    """How one anchor is doing; times in Unix seconds. ``placement`` is the last one, of whichever process."""

    name: str
    kind: str
    placement: Placement | None
    lag_seconds: float
    lag_entries: int
    alarm: bool
    failure: AnchorFailed | None
    failed_at: float | None


class Anchoring:
    """Places each new checkpoint at every anchor. Belongs to the event loop that starts it."""

    def __init__(self, anchors: Mapping[str, tuple[Anchor, Pace]], means: Means) -> None:
        """Nothing is asked of an anchor before :meth:`start`."""
        self._records = means.records
        self._timing = means.timing
        self._meter = means.meter
        self._leads = means.leads
        self._stations = [Station(name, anchor, pace, means) for name, (anchor, pace) in anchors.items()]
        self._alarms = {station.name: Alarm(station, means) for station in self._stations}
        self._running = Background()

    async def start(self) -> None:
        """Recall what was placed before, and begin. Raises ``Unavailable`` if that cannot be read."""
        if not self._stations:
            return
        placed = {placement.anchor: placement for placement in await self._records.placements()}
        for station in self._stations:
            if station.name in placed:
                station.recall(placed[station.name])
            self._running.begin(self._keep_up(station))

    async def close(self) -> None:
        """Give the anchors that work the last checkpoint, if they take it in time, and stop."""
        await self._running.cancel()
        well = [station for station in self._stations if self._leads() and station.progress.failure is None]
        if well:
            with contextlib.suppress(BrokerError, TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await self._records.checkpoint()
                    await asyncio.gather(*(station.attempt() for station in well))
        await asyncio.gather(*(station.anchor.close() for station in self._stations), return_exceptions=True)

    async def watch(self) -> None:
        """Look at how far behind each anchor is: for the metrics, and for the alarms. Costs no request.

        A process that does not lead looks at what the one that does has placed. Raises ``Unavailable``.
        """
        if not self._leads():
            await self._follow()
            return
        now, newest = self._timing.elapsed(), self._records.signed_checkpoint()
        for station in self._stations:
            progress, placement = station.progress, station.placement
            if newest is not None:
                progress.saw(newest.size, now)
            self._meter.anchor_is(
                station.name,
                lag_seconds=progress.lag_seconds(now),
                lag_entries=progress.lag_entries(),
                placed_at=None if placement is None else placement.at,
                alarm=await self._alarms[station.name].follow(now),
            )

    def states(self) -> Sequence[AnchorState]:
        """Return how each anchor is doing, as far as is known without asking it."""
        now = self._timing.elapsed()
        return [
            AnchorState(
                name=station.name,
                kind=station.pace.kind,
                placement=station.placement,
                lag_seconds=station.progress.lag_seconds(now),
                lag_entries=station.progress.lag_entries(),
                alarm=station.progress.alarm(now) is not None,
                failure=station.progress.failure,
                failed_at=station.failed_at,
            )
            for station in self._stations
        ]

    async def known(self) -> Mapping[str, Known]:
        """Ask each anchor what it holds: the youngest checkpoint that this ledger's key has signed.

        Nothing is compared with the ledger. Takes as long as the slowest anchor, but :data:`LOOK_SECONDS` at most, and
        raises nothing.
        """
        return await self._ask([_known(station.held()) for station in self._stations])

    async def check(self) -> Mapping[str, Known]:
        """Like :meth:`known`, but what is held must also be a prefix of the ledger as it is now, and nothing be lost.

        Raises ``Unavailable`` if the ledger cannot sign a checkpoint to compare with.
        """
        await self._records.checkpoint()
        return await self._ask([_known(station.check()) for station in self._stations])

    async def _ask(self, answers: list[Coroutine[Any, Any, Known]]) -> Mapping[str, Known]:
        names = [station.name for station in self._stations]
        return dict(zip(names, await asyncio.gather(*answers), strict=True))

    async def _follow(self) -> None:
        for placement in await self._records.placements() if self._stations else ():
            for station in self._stations:
                if station.name == placement.anchor and station.placement != placement:
                    station.recall(placement)

    async def _keep_up(self, station: Station) -> None:
        while True:
            if not self._leads():
                await self._timing.sleep(FOLLOW_SECONDS)
                continue
            pause = await station.attempt()
            await self._alarms[station.name].follow(self._timing.elapsed())
            await self._timing.sleep(pause)


async def ask(anchors: Mapping[str, Anchor], open_note: OpenNote) -> Mapping[str, Known]:
    """Ask anchors what they hold, like :meth:`Anchoring.known`, where no broker is running."""
    answers = await asyncio.gather(*(_known(held_by(anchor, open_note)) for anchor in anchors.values()))
    return dict(zip(anchors, answers, strict=True))


async def _known(answer: Coroutine[Any, Any, SignedHead | None]) -> Known:
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            return await answer
    except (BrokerError, TimeoutError) as error:
        return failure_of(error)
