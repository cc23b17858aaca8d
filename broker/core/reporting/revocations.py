"""Revocations in a report: what each rule ended, who applied it, and how long it took until backends confirmed it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from broker.core.entry import RULES, Kind

MAX_RULES: Final = 500
"""How many rules are told one by one; all are counted."""

MAX_LEASES: Final = 100_000
"""How many leases that rules ended are followed until they are settled."""


@dataclass(slots=True)
class Revocation:
    """A rule. ``tokens`` is how many it covered, if that was counted; times are Unix milliseconds."""

    seq: int
    members: Mapping[str, Any]
    tokens: int | None = None
    leases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    settled_at: int | None = None
    propagated: Mapping[str, Any] | None = None
    """The entry that tells how far it got; None if nobody had to be told of it, or it is not recorded."""

    @property
    def seconds(self) -> float | None:
        """How many seconds passed until the last of its leases was settled; None while there is none, or one open."""
        if self.settled_at is None or self.outcomes.total() < self.leases:
            return None
        return (self.settled_at - int(self.members["at"])) / 1000


@dataclass(slots=True)
class Revocations:
    """Follows rules and the leases that they end."""

    rules: dict[int, Revocation] = field(default_factory=dict)
    total: int = 0
    _ended_by: dict[str, int] = field(default_factory=dict)

    def take(self, seq: int, members: Mapping[str, Any]) -> None:
        """Take up an entry."""
        match members["kind"]:
            case kind if kind in RULES:
                self.total += 1
                number = members.get("number")
                if isinstance(number, int) and len(self.rules) < MAX_RULES:
                    self.rules[number] = Revocation(seq, members)
            case Kind.RULE_PROPAGATED:
                self._spread(members.get("number"), members)
            case Kind.LEASE_ENDED:
                self._end(str(members.get("ref")), members.get("rule"))
            case Kind.LEASE_SETTLED:
                self._settle(str(members.get("ref")), members)
            case _:
                pass

    def _spread(self, rule: object, members: Mapping[str, Any]) -> None:
        if isinstance(rule, int) and rule in self.rules:
            self.rules[rule].propagated = members

    def _end(self, lease: str, rule: object) -> None:
        if isinstance(rule, int) and rule in self.rules and len(self._ended_by) < MAX_LEASES:
            self._ended_by[lease] = rule
            self.rules[rule].leases += 1

    def _settle(self, lease: str, members: Mapping[str, Any]) -> None:
        number = self._ended_by.pop(lease, None)
        if number is not None:
            self.rules[number].outcomes[str(members.get("status"))] += 1
            self.rules[number].settled_at = int(members["at"])
