"""A rule that is followed until nobody accepts any more what it hits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from broker.core.rules import Rule


@dataclass(slots=True)
class Followed:
    """A rule on its way.

    ``behind`` is how many had not applied it at the last look, None before the first. ``slowest`` is how many seconds
    after its commit the last one had applied it that has, None if that was not seen: of a rule that another process
    made, this one may see the end alone. ``own`` says that it was made here, ``shared`` that somebody had to be told:
    then its outcome becomes an entry.
    """

    rule: Rule
    own: bool
    shared: bool = False
    waiting: int = 0
    behind: int | None = None
    slowest: float | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def looked(self, behind: int, since: float) -> None:
        """Take note of a look, ``since`` seconds after the commit."""
        if self.own if self.behind is None else behind < self.behind:
            self.slowest = since
        self.behind = behind
