"""Naming tokens. Where somebody reads status lists, an id is a place in one; else it says nothing."""

from __future__ import annotations

from array import array
from collections.abc import Callable

from broker.core.rules import Rule
from broker.core.status_list import OPEN_SECONDS, SIZE, id_at
from broker.ports import Ids, Revocations


class TokenIds:
    """Gives each token an id of its own.

    A list is filled by one process alone, so that places are given without asking anybody; they come in an order by
    chance, so that neighbours tell nothing of each other. A place is never given twice, even if its token came to
    nothing.
    """

    def __init__(self, ids: Ids, revocations: Revocations, below: Callable[[int], int]) -> None:
        """``below`` returns a whole number from 0 to below another, that nobody can guess."""
        self._ids = ids
        self._below = below
        self._list = ""
        self._free = array("I")
        self._opened_at = 0.0
        revocations.rules.watch(self._heard)

    def new(self, now: float, *, listed: bool) -> str:
        """Return an id; ``listed`` says whether it is a place in a status list."""
        if not listed:
            return self._ids.new("tok")
        # A little earlier is as good: requests that came sooner may be named later than the one that opened the list.
        if not self._free or abs(now - self._opened_at) >= OPEN_SECONDS:
            self._list, self._free, self._opened_at = self._ids.new("tok"), array("I", range(SIZE)), now
        drawn = self._below(len(self._free))
        self._free[drawn], self._free[-1] = self._free[-1], self._free[drawn]
        return id_at(self._list, self._free.pop())

    def _heard(self, rule: Rule, _before: int) -> None:
        """Go on with another list after a rule for everything, which sets all bits of those that were begun."""
        if rule.selector.everything:
            del self._free[:]
