"""What makes the ledger evidence: proofs, erasing what is personal, and examining what is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.core.erasing import Forgetting
from broker.core.soundness import Unsound
from broker.core.tiles import Tile
from broker.core.tree_head import KnownHead
from broker.ports.records import Record


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A tree head that was signed: how many entries, their root, and the checkpoint (C2SP note) that says so."""

    size: int
    root: bytes
    note: str


@dataclass(frozen=True, slots=True)
class Proven:
    """An entry with the RFC 6962 inclusion proof, from the leaf's sibling upwards, that leads to a signed head."""

    record: Record
    path: Sequence[bytes]
    head: SignedHead


class Proofs(Protocol):
    """What convinces somebody who trusts neither the broker nor its database; like :class:`Records` otherwise.

    The cost is a few rows for each level of the tree, never a pass through the entries.
    """

    async def prove(self, seq: int) -> Proven:
        """Return an entry with its proof under the last signed head that covers it; one is signed if there is none.

        Raises ``Refused`` (``NOT_FOUND``) if there is no such entry, or if entries that are needed are gone, and
        ``Unavailable`` (``LEDGER_CORRUPT``) instead of a proof that does not hold.
        """
        ...

    async def tile(self, tile: Tile) -> bytes:
        """Return the content of a tile or a bundle (C2SP tlog-tiles); it never changes. Raises like :meth:`prove`."""
        ...


@dataclass(frozen=True, slots=True)
class Forgettable:
    """Places of entries that can lose their personal members now. ``in_use`` counts those that cannot yet.

    ``last`` is the place up to which was looked; ``more`` says that entries above it may be meant as well.
    """

    places: Sequence[int]
    in_use: int
    last: int
    more: bool


class Erasable(Protocol):
    """What it takes to forget personal data; raises as :class:`Records` does."""

    async def forgettable(self, wanted: Forgetting, now: float, *, after: int, limit: int) -> Forgettable:
        """Return up to ``limit`` entries above a place that are meant and still have personal members.

        What they record must be over: a token or task that lives, a request that waits, a rule in force keep theirs.
        Looks through a bounded number of entries.
        """
        ...

    async def forget_erased(self) -> bool:
        """Make the files hold nothing any more of what was erased; return whether they do not.

        They do for as long as somebody reads an older state of them. Does not wait for that.
        """
        ...


class Examining(Protocol):
    """One examination of the whole ledger, while it goes on being written. Each call may be slow."""

    @property
    def entries(self) -> int:
        """How many entries were gone through."""
        ...

    async def step(self, limit: int) -> int:
        """Go through the next entries, ``limit`` at most; return how many there were: fewer at the end.

        Raises ``Unavailable`` if the ledger cannot be read now.
        """
        ...

    async def finish(self) -> Unsound | None:
        """Go through what is not an entry; return what is wrong. Raises ``Unavailable``."""
        ...


class SelfExamined(Protocol):
    """The ledger in use, as what must be checked again and again."""

    @property
    def unsound(self) -> Unsound | None:
        """Why nothing is written to it any more; None if nothing is known against it."""
        ...

    @property
    def is_remembered(self) -> bool:
        """Whether all that is known against it is what others knew when an earlier process asked them."""
        ...

    async def contradictions(self, known: Mapping[str, KnownHead]) -> Sequence[str]:
        """Return what others know that does not fit, in plain words, but for what an operator accepted.

        Quick: it takes the ledger's own checkpoints at their word. Raises ``Unavailable`` if it cannot be read now.
        """
        ...

    async def examine(self, known: Mapping[str, KnownHead]) -> Examining:
        """Begin to go through all that is there now. Raises ``Unavailable`` if the ledger cannot be read now."""
        ...

    async def passed(self, entries: int) -> None:
        """Take note that everything was found sound, so many entries among it."""
        ...

    async def condemn(self, unsound: Unsound, entries: int) -> None:
        """Write nothing any more, in this process or a later one, until an operator has seen to it.

        Every commit fails with ``LEDGER_CORRUPT`` from now on. What is in force, stays so.
        """
        ...

    async def heed(self) -> None:
        """Take over what another process of the same ledger has condemned, or absolved."""
        ...

    async def absolve(self, entries: int) -> None:
        """Forget what is only remembered from an earlier process; anything else stays."""
        ...
