"""What a receiver of entries is, and what it can answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.core.exporting import Event


@dataclass(frozen=True, slots=True)
class Line:
    """An entry in the format of its receiver."""

    event: Event
    text: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """The receiver has all of it; or, if it acknowledges nothing, it is on its way."""


@dataclass(frozen=True, slots=True)
class PartlyAccepted:
    """The receiver has all of it but ``refused`` entries, and does not say which; it must not get it again."""

    refused: int
    why: str


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The receiver wants less at once."""


@dataclass(frozen=True, slots=True)
class NotAccepted:
    """The receiver will never take this, because of what is in it."""

    why: str


@dataclass(frozen=True, slots=True)
class Later:
    """The receiver cannot take anything now, and perhaps has nothing of it. ``after`` is the wait in s it asked for."""

    why: str
    after: float | None = None


Answer = Accepted | PartlyAccepted | TooLarge | NotAccepted
Outcome = Answer | Later


class Receiver(Protocol):
    """Takes entries, one batch at a time and in order."""

    @property
    def window(self) -> int:
        """How many bytes may be lost when its connection breaks, although they were accepted; 0 if none ever are."""
        ...

    @property
    def broken(self) -> bool:
        """Whether its connection has ended, so that a part of the window may be lost."""
        ...

    async def send(self, lines: Sequence[Line]) -> Outcome:
        """Hand over a batch."""
        ...

    async def finish(self) -> bool:
        """End in order; whether all that was accepted is now known to have arrived."""
        ...
