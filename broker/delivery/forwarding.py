"""Forwarding entries to a receiver: in order, at least once each, however long it takes.

A batch that is too large, or holds something that the receiver will not take, is halved until it is one entry; after
that batches grow again. What the receiver cannot take now waits in the ledger, and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from broker.core.exporting import Event, Format
from broker.core.pacing import Backoff, Timing
from broker.core.personal import told
from broker.delivery.cursor import Cursor
from broker.delivery.progress import Progress
from broker.delivery.receiver import Accepted, Answer, Later, Line, NotAccepted, PartlyAccepted, Receiver, TooLarge

MAX_BATCH: Final = 500
MAX_BATCH_BYTES: Final = 1024 * 1024
"""A batch has no more than this, unless a single entry has."""

IDLE_SECONDS: Final = 1.0
BACKOFF: Final = Backoff(first=0.5, longest=60.0)
LONGEST_WAIT: Final = 600.0
"""Seconds that a receiver can make us wait at most."""

ATTEMPTS: Final = 6
"""How often a batch is tried before an export that does not follow gives up: for some 15 seconds."""

Page = Sequence[tuple[int, Mapping[str, Any]]]
Read = Callable[[int], Awaitable[Page]]
"""Returns entries above a place, a page of them at most: the place, ``entry`` and ``personal`` as the API has them."""


class Stopped(Exception):
    """The export cannot go on: ``why`` is for whoever runs it. What was not delivered is still to come."""

    def __init__(self, why: str) -> None:
        """``why`` is one line."""
        super().__init__(why)
        self.why = why


class ReceiverDown(Stopped):
    """The receiver took nothing for too long."""


class EntryRefused(Stopped):
    """The receiver refuses an entry for good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How to forward. ``follow``: go on with new entries, and wait for the receiver however long that takes.

    ``skip_refused``: leave out what the receiver refuses for good, instead of stopping. ``source`` is how the ledger is
    called in the events.
    """

    source: str
    follow: bool = False
    skip_refused: bool = False


class Forwarding:
    """One export. Belongs to one event loop."""

    def __init__(
        self,
        form: Format,
        receiver: Receiver,
        cursor: Cursor | None,
        manner: Manner,
        *,
        timing: Timing,
        tell: Callable[[str], None],
    ) -> None:
        """``tell`` is told, in a line, what somebody should know who watches."""
        self._form = form
        self._receiver = receiver
        self._cursor = cursor
        self._manner = manner
        self._timing = timing
        self._tell = tell
        self._limit = MAX_BATCH
        self._failures = 0
        self._progress = Progress(0, receiver.window)
        self.skipped = 0

    @property
    def following(self) -> int:
        """The next entry to send."""
        return self._progress.following

    async def run(self, read: Read, first: int) -> None:
        """Forward from an entry on; return at the end of the ledger, unless new entries are to follow.

        Raises :class:`Stopped`, ``CursorUnusable``, and whatever ``read`` and the receiver raise.
        """
        self._progress = Progress(first, self._receiver.window)
        try:
            while True:
                page = await read(self.following - 1)
                if page:
                    await self._forward(page)
                elif self._receiver.broken:
                    self._progress.go_back()
                elif self._manner.follow:
                    self._failures = 0
                    await self._timing.sleep(IDLE_SECONDS)
                else:
                    break
        except asyncio.CancelledError:
            await self._end()
            raise
        await self._end()

    async def _forward(self, page: Page) -> None:
        """Send a page, as far as the receiver takes it."""
        done = 0
        while done < len(page):
            batch = self._batch(page[done:])
            outcome = await self._receiver.send(batch)
            if isinstance(outcome, Later):
                await self._wait(outcome)
                return
            done += self._settle(batch, outcome)

    def _batch(self, page: Page) -> list[Line]:
        lines: list[Line] = []
        size = 0
        for seq, found in page[: self._limit]:
            event = Event(seq, told(found), self._manner.source, found)
            line = Line(event, self._form.line(event))
            size += len(line.text)
            if lines and size > MAX_BATCH_BYTES:
                break
            lines.append(line)
        return lines

    def _settle(self, batch: Sequence[Line], answer: Answer) -> int:
        """Return how many entries of the batch there is nothing more to do about."""
        match answer:
            case Accepted():
                self._limit = min(self._limit * 2, MAX_BATCH)
            case PartlyAccepted(refused, why):
                self._refused(f"{refused} of the entries {_places(batch)}", refused, why)
            case TooLarge() | NotAccepted() if len(batch) > 1:
                self._limit = len(batch) // 2
                return 0
            case TooLarge():
                self._refused(f"entry {_places(batch)}", 1, "it is too large")
            case NotAccepted(why):
                self._refused(f"entry {_places(batch)}", 1, why)
        self._accepted(batch)
        return len(batch)

    def _accepted(self, batch: Sequence[Line]) -> None:
        before = self._progress.confirmed
        self._progress.accepted(batch[-1].event.seq, sum(len(line.text) for line in batch))
        if self._progress.confirmed != before:
            self._failures = 0
            self._keep()

    def _refused(self, what: str, count: int, why: str) -> None:
        text = f"the receiver refuses {what}: {why}"
        if not self._manner.skip_refused:
            raise EntryRefused(text)
        self.skipped += count
        self._tell(f"skipped: {text}")

    async def _wait(self, later: Later) -> None:
        """Wait before everything that may be lost is sent again."""
        self._progress.go_back()
        self._failures += 1
        if self._failures >= ATTEMPTS and not self._manner.follow:
            raise ReceiverDown(later.why)
        pause = BACKOFF.delay(self._failures - 1, self._timing.spread())
        pause = max(pause, min(later.after or 0.0, LONGEST_WAIT))
        self._tell(f"waiting {pause:.1f} s: {later.why}")
        await self._timing.sleep(pause)

    async def _end(self) -> None:
        """Take leave of the receiver; what it does not confirm comes again with the next run."""
        again = self.following - self._progress.confirmed
        if await self._receiver.finish():
            self._progress.confirm()
            if again:
                self._keep()
        elif again:
            self._tell(f"the receiver did not confirm the last {again} entries; with a cursor they are sent again")

    def _keep(self) -> None:
        if self._cursor is not None:
            self._cursor.write(self._progress.confirmed)


def _places(batch: Sequence[Line]) -> str:
    first, last = batch[0].event.seq, batch[-1].event.seq
    return str(first) if first == last else f"{first} to {last}"
