"""What all formats are made of, and how grave an entry is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

from broker.core.entry import RULES, Kind

VENDOR: Final = "credential-broker"
PRODUCT: Final = "broker"

_GRAVE: Final = RULES | {
    Kind.PREFIX_REVOKED,
    Kind.LEASE_MISSED,
    Kind.CLOCK_STEPPED,
    Kind.ANCHOR_FAILED,
    Kind.LEDGER_ARCHIVED,
}


@dataclass(frozen=True, slots=True)
class Event:
    """An entry on its way out. ``source`` names the ledger among those that a receiver has, as a URI.

    ``members`` are all that it says. ``stored`` is what it takes to verify it: its ``entry`` as it was hashed, and what
    is ``personal`` beside it (see :func:`broker.core.personal.personal_beside`); None where that is the same.
    """

    seq: int
    members: Mapping[str, Any]
    source: str
    stored: Mapping[str, Any] | None = None

    @property
    def kind(self) -> str:
        """What happened."""
        return str(self.members["kind"])

    @property
    def milliseconds(self) -> int:
        """When, in Unix milliseconds."""
        return int(self.members["at"])

    @property
    def is_refusal(self) -> bool:
        """Whether somebody did not get what they asked for."""
        return self.kind.endswith(".refused")

    @property
    def is_grave(self) -> bool:
        """Whether somebody should look: a revocation, a break-glass use, a lost lease, an anchor in alarm."""
        return self.kind in _GRAVE or "break_glass" in self.members

    @property
    def address(self) -> IPv4Address | IPv6Address | None:
        """Where the request came from, if that is known."""
        try:
            return ip_address(self.text("address") or "")
        except ValueError:
            return None

    def text(self, name: str) -> str | None:
        """Return a member that is a text, or None."""
        value = self.members.get(name)
        return value if isinstance(value, str) else None


def one_line(value: object) -> str:
    """Encode as JSON in ASCII: no text in it can end the line, or speak to a terminal."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))
