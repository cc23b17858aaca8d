"""What a report says of a time, gathered entry by entry: counts, and the events that are told one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from broker.core.entry import Kind
from broker.core.reporting.approvals import Approvals
from broker.core.reporting.counted import Counted, Counts
from broker.core.reporting.revocations import Revocations

MAX_EVENTS: Final = 500
"""How many events of one sort are told one by one; all are counted."""

_ISSUED: Final = frozenset({Kind.TOKEN_ISSUED, Kind.IDENTITY_TOKEN_ISSUED, Kind.LEASE_SEALED})
DIMENSIONS: Final = ("role", "agent", "audience", "tier", "secret")
"""By what issued credentials are counted."""

_TOLD: Final = frozenset(
    {
        Kind.KEYS_ROTATED,
        Kind.POLICY_LOADED,
        Kind.CLOCK_STEPPED,
        Kind.BROKER_STARTED,
        Kind.PREFIX_REVOKED,
        Kind.LEASES_CONFIRMED,
        Kind.LEDGER_ARCHIVED,
        Kind.ANCHOR_FAILED,
        Kind.ANCHOR_RECOVERED,
        Kind.AGENT_REGISTERED,
        Kind.AGENT_REMOVED,
        Kind.BLOCK_LIFTED,
    }
)
"""Kinds of entries that are told one by one."""


@dataclass(slots=True)
class Events:
    """Entries that are told one by one, as many as there is room for."""

    counted: Counted = field(default_factory=Counted)
    told: list[tuple[int, Mapping[str, Any]]] = field(default_factory=list)

    def add(self, seq: int, members: Mapping[str, Any]) -> None:
        """Take up an entry."""
        self.counted.add(seq)
        if len(self.told) < MAX_EVENTS:
            self.told.append((seq, members))


class Evidence:
    """Takes the entries of a time in their order. Its memory does not grow with their number."""

    def __init__(self) -> None:
        """Nothing happened yet."""
        self.kinds = Counts()
        self.issued = {name: Counts() for name in DIMENSIONS}
        self.refused = Counts()
        self.strangers = Counts()
        self.events = {kind: Events() for kind in _TOLD}
        self.anchored: dict[str, tuple[int, float]] = {}
        """Up to how many entries each anchor has a checkpoint, and since when (Unix seconds)."""
        self.break_glass = Events()
        self.stuck = Events()
        self.approvals = Approvals()
        self.revocations = Revocations()

    def take(self, seq: int, members: Mapping[str, Any]) -> None:
        """Take up an entry."""
        kind = str(members["kind"])
        self.kinds.add(kind, seq)
        if kind in _ISSUED:
            for name in DIMENSIONS:
                if name in members:
                    self.issued[name].add(members[name], seq)
        elif kind.endswith(".refused") and "code" in members:
            self.refused.add(f"{members['code']} ({kind})", seq)
        elif kind == Kind.STRANGERS_REFUSED:
            self._take_strangers(seq, members)
        elif kind == Kind.LEASE_MISSED and members.get("stuck") is True:
            self.stuck.add(seq, members)
        elif kind in _TOLD:
            self.events[Kind(kind)].add(seq, members)
        if "break_glass" in members:
            self.break_glass.add(seq, members)
        self.approvals.take(seq, members)
        self.revocations.take(seq, members)

    def _take_strangers(self, seq: int, members: Mapping[str, Any]) -> None:
        counts = members.get("counts")
        for reason, count in counts.items() if isinstance(counts, Mapping) else ():
            self.strangers.add(reason, seq, count if isinstance(count, int) else 1)
