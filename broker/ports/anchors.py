"""Places beyond the broker's reach that keep checkpoints."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.ports.evidence import SignedHead

Prove = Callable[[int], Awaitable[Sequence[bytes]]]
"""Returns the RFC 6962 consistency proof from a size, 0 to that of the checkpoint which is placed, to the latter."""


@dataclass(frozen=True, slots=True)
class Placed:
    """An anchor holds a checkpoint, durably. ``receipt`` is what it gave as evidence: where it is, under which lock.

    ``cosignatures`` are signature lines of a witness, each ended by a newline, which may be added to the note.
    """

    receipt: str
    cosignatures: str = ""


class Anchor(Protocol):
    """A place beyond the broker's reach that keeps checkpoints, so that a ledger which was changed later shows.

    Every method may be cancelled, is bounded in time, never takes the event loop's, and raises ``AnchorFailed`` and
    nothing else, but for what a :data:`Prove` raises.
    """

    @property
    def remembers(self) -> bool:
        """Whether :meth:`latest` says what is held; a place that only takes does not."""
        ...

    async def place(self, checkpoint: SignedHead, prove: Prove, /) -> Placed:
        """Keep a checkpoint; returns once it is durable there. What is there already is never changed or removed.

        It is called at least once for each checkpoint that was placed, with sizes that do not fall unless somebody
        tampers with the ledger: doing it twice is harmless. If this raises, the checkpoint may be there all the same.
        Raises ``ANCHOR_INCONSISTENT`` if there is another history already, and ``ANCHOR_LOST``, once, if what was there
        is gone.
        """
        ...

    async def latest(self) -> str | None:
        """Return the youngest note that is held, as it is: the caller believes only what its own key has signed."""
        ...

    async def close(self) -> None:
        """Give back connections and threads, without waiting for what hangs."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What was placed where: the checkpoint's size and root, when (Unix seconds), and what came back for it."""

    anchor: str
    size: int
    root: bytes
    at: float
    placed: Placed


class AnchorRecords(Protocol):
    """What anchoring reads of the ledger, and what it notes beside it; like :class:`Records` otherwise."""

    def signed_checkpoint(self) -> SignedHead | None:
        """Return the newest checkpoint that this process has signed, without reading the store; None before any."""
        ...

    async def checkpoint(self) -> str:
        """Sign a checkpoint of the current head, so that :meth:`signed_checkpoint` returns it."""
        ...

    async def consistency(self, old: int, new: int) -> Sequence[bytes]:
        """Return the RFC 6962 consistency proof between two tree sizes."""
        ...

    async def placements(self) -> Sequence[Placement]:
        """Return the youngest placement of each anchor."""
        ...

    async def note_placement(self, placement: Placement) -> None:
        """Keep a placement, durably, and forget all but the last ones of its anchor."""
        ...


class AnchorMeter(Protocol):
    """Measures anchors."""

    def anchor_failed(self, anchor: str, code: str) -> None:
        """Count one attempt that failed."""
        ...

    def anchor_is(
        self, anchor: str, *, lag_seconds: float, lag_entries: int, placed_at: float | None, alarm: bool
    ) -> None:
        """Show how far behind an anchor is, when it last took a checkpoint (Unix seconds), and whether to look."""
        ...
