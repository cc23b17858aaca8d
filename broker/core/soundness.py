"""Why a ledger must not be built upon: what the broker's check of itself found, in words for an operator."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Fault(StrEnum):
    """``damaged``: what is stored contradicts itself. ``behind``: it is sound, but others know of another ledger.

    The second is what a restored backup looks like, and a machine that was rolled back.
    """

    DAMAGED = "damaged"
    BEHIND = "behind"


@dataclass(frozen=True, slots=True)
class Unsound:
    """What is wrong with a ledger. ``problems`` name entries and tables, without any content of entries."""

    fault: Fault
    problems: tuple[str, ...]

    @property
    def public(self) -> str:
        """What callers are told, who need not know which entry it is."""
        return f"{_PUBLIC[self.fault]}; nothing is issued until an operator has seen to it"

    @property
    def way_on(self) -> str:
        """What an operator can do."""
        return _WAYS_ON[self.fault]


_PUBLIC: Final = {
    Fault.DAMAGED: "the ledger is damaged",
    Fault.BEHIND: "the ledger is older than it was once, or another one",
}
_WAYS_ON: Final = {
    Fault.DAMAGED: "stop the broker, put a backup in the place of the ledger, then: broker ledger accept-restore",
    Fault.BEHIND: "stop the broker and put the newer ledger back; or go on with this one: broker ledger accept-restore",
}
