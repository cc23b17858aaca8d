"""One anchor: what it holds is compared with the ledger, and the newest checkpoint is placed there.

The order of effects is the design.

1. The size and root are durable in the ledger, then signed (:mod:`broker.ledger.checkpoints`).
2. What the anchor holds is verified to be a prefix of that tree.
3. The checkpoint is placed. If the process dies before the next step, it is placed again, which is harmless.
4. That it was placed is noted beside the ledger, so that a later process knows what the anchor must still have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from broker.core.anchor_progress import ALARMING, AnchorProgress
from broker.core.errors import AnchorFailed, BrokerError, Code
from broker.core.merkle import verify_consistency
from broker.core.pacing import Backoff, Timing
from broker.ports import Anchor, AnchorMeter, AnchorRecords, Clock, Events, Ledger, Placement, SignedHead

PLACE_SECONDS: Final = 60.0
"""How long one attempt may take, all its requests together."""

BACKOFF: Final = Backoff(first=1.0, longest=300.0)

OpenNote = Callable[[str], tuple[int, bytes]]
"""Returns the size and root of a note that this ledger's key has signed. Raises ``ValueError`` for any other text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often an anchor gets a checkpoint while there are new ones, and after how long a lag is an alarm; seconds."""

    kind: str
    every_seconds: float
    alarm_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What all anchors share: ``ledger`` takes the entries about them, ``records`` is what they are given.

    ``leads`` says whether this process is the one that places checkpoints.
    """

    ledger: Ledger
    records: AnchorRecords
    open_note: OpenNote
    clock: Clock
    timing: Timing
    meter: AnchorMeter
    events: Events
    leads: Callable[[], bool]


class Station:
    """Sees to one anchor."""

    def __init__(self, name: str, anchor: Anchor, pace: Pace, means: Means) -> None:
        """Nothing is asked before the first attempt."""
        self.name = name
        self.anchor = anchor
        self.pace = pace
        self.progress = AnchorProgress(alarm_seconds=pace.alarm_seconds)
        self.placement: Placement | None = None
        self.failed_at: float | None = None
        self._means = means

    def recall(self, placement: Placement) -> None:
        """Take up what an earlier process placed here."""
        self.placement = placement
        self.progress = AnchorProgress(alarm_seconds=self.pace.alarm_seconds, size=placement.size)

    async def attempt(self) -> float:
        """Place the newest checkpoint, if it is not here; return after how many seconds to look again."""
        checkpoint = self._means.records.signed_checkpoint()
        if checkpoint is None or checkpoint.size == 0:
            return self.pace.every_seconds
        if checkpoint.size == self.progress.size and self.progress.failure is None:
            return self.pace.every_seconds
        begun = self._means.timing.elapsed()
        self.progress.saw(checkpoint.size, begun)
        try:
            async with asyncio.timeout(PLACE_SECONDS):
                await self._place(checkpoint)
        except (BrokerError, TimeoutError) as error:
            return self._pause_after(failure_of(error))
        except Exception as error:  # noqa: BLE001 - a defect of one anchor must not end its task, nor hide
            self._means.events.error("anchor.defect", anchor=self.name, exc_info=error)
            return self._pause_after(AnchorFailed(Code.INTERNAL, "a defect of the broker"))
        self.progress.placed(checkpoint.size, begun)
        return self.pace.every_seconds

    async def held(self) -> SignedHead | None:
        """Return the youngest checkpoint that is here, whatever the ledger has; None if there is none, or no telling.

        Raises ``AnchorFailed``.
        """
        return await held_by(self.anchor, self._means.open_note)

    async def check(self) -> SignedHead | None:
        """Return what is held here, once it is known to be a prefix of the ledger and no less than it was.

        What it finds is found: if that is alarming, it is as if an attempt had. Raises ``AnchorFailed``.
        """
        try:
            return await self._compare()
        except AnchorFailed as failure:
            if failure.code in ALARMING:
                self._pause_after(failure)
            raise

    async def _compare(self) -> SignedHead | None:
        before = self.progress.size
        held = await self.held()
        # Only now: another attempt may have placed a newer one since this began, but none newer than this.
        newest = self._means.records.signed_checkpoint()
        if held is not None and newest is not None:
            await self._require_prefix(held, newest)
        size = 0 if held is None else held.size
        if self.anchor.remembers and size < before:
            text = f"it held a checkpoint of {before} entries, and holds one of {size} now"
            raise AnchorFailed(Code.ANCHOR_LOST, text)
        return held

    async def _place(self, checkpoint: SignedHead) -> None:
        held = await self._compare()
        if held is not None and held.size == checkpoint.size == self.progress.size:
            return
        records = self._means.records

        async def prove(old: int) -> Sequence[bytes]:
            return await records.consistency(old, checkpoint.size)

        placed = await self.anchor.place(checkpoint, prove)
        now = self._means.clock.now()
        self.placement = Placement(anchor=self.name, size=checkpoint.size, root=checkpoint.root, at=now, placed=placed)
        try:
            await records.note_placement(self.placement)
        except BrokerError:
            return  # the ledger says itself that it is not well; the anchor holds what it holds

    async def _require_prefix(self, held: SignedHead, checkpoint: SignedHead) -> None:
        if held.size > checkpoint.size:
            text = f"it holds a checkpoint of {held.size} entries, but the ledger has only {checkpoint.size}"
            raise AnchorFailed(Code.ANCHOR_INCONSISTENT, text)
        proof = await self._means.records.consistency(held.size, checkpoint.size)
        if not verify_consistency(held.size, held.root, checkpoint.size, checkpoint.root, proof):
            text = f"it holds a checkpoint of {held.size} entries that were not those which the ledger has"
            raise AnchorFailed(Code.ANCHOR_INCONSISTENT, text)

    def _pause_after(self, failure: AnchorFailed) -> float:
        self.progress.failed(failure)
        if failure.code is Code.ANCHOR_LOST:
            self.progress.size = 0  # it was told; from now on it is given anew what it has lost
        self.failed_at = self._means.clock.now()
        self._means.meter.anchor_failed(self.name, failure.code.value)
        pause = BACKOFF.delay(self.progress.failures - 1, self._means.timing.spread())
        return min(BACKOFF.longest, max(pause, failure.retry_after or 0))


async def held_by(anchor: Anchor, open_note: OpenNote) -> SignedHead | None:
    """Return the youngest checkpoint that an anchor holds; None if there is none, or no telling.

    Raises ``AnchorFailed``.
    """
    note = await anchor.latest()
    if note is None:
        return None
    try:
        size, root = open_note(note)
    except ValueError as error:
        text = "what it holds last is no checkpoint that this ledger's key has signed"
        raise AnchorFailed(Code.ANCHOR_INCONSISTENT, text) from error
    return SignedHead(size, root, note)


def failure_of(error: BrokerError | TimeoutError) -> AnchorFailed:
    """Return what an error says about an anchor."""
    match error:
        case AnchorFailed():
            return error
        case BrokerError():
            return AnchorFailed(error.code, error.public, retry_after=error.retry_after)
        case _:
            return AnchorFailed(Code.ANCHOR_UNAVAILABLE, "it did not answer in time")
