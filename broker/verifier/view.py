"""What this resource server knows of the broker's revocation rules, and how old that knowledge is."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf
from typing import Final

from broker.core.errors import Code, Unavailable
from broker.core.pacing import Timing
from broker.core.rules import RuleIndex
from broker.core.snapshot import Snapshot

RETRY_SECONDS: Final = 1


class RolledBack(Exception):
    """A snapshot is older than one that was seen before: an old copy, or a broker whose ledger was put back."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The moment at which a snapshot was asked for, by both clocks (see :class:`~broker.core.pacing.Timing`)."""

    wall: float
    elapsed: float


class View:
    """The newest snapshot. It never goes back to an earlier one.

    Its age counts from the broker's own statement of when it was true, and goes on by whichever clock has moved more
    since: a wall clock that is set back cannot make an old view young, and neither can a suspended machine.
    """

    def __init__(self, timing: Timing, *, max_staleness: float, leeway: float) -> None:
        """Times are seconds. ``leeway`` is by how much the clocks of the broker and of this host may differ."""
        self._timing = timing
        self._max_staleness = max_staleness
        self._leeway = leeway
        self._snapshot: Snapshot | None = None
        self._rules = RuleIndex()
        self._asked = Reading(0.0, 0.0)
        self._age_then = inf

    @property
    def rules(self) -> RuleIndex:
        """The rules to check tokens with. They only mean something while :meth:`require_fresh` passes."""
        return self._rules

    @property
    def epoch(self) -> int | None:
        """The epoch of the view, or None before the first snapshot."""
        return None if self._snapshot is None else self._snapshot.epoch

    def now(self) -> Reading:
        """Read both clocks: to be done before a snapshot is asked for, so that its age is never underestimated."""
        return Reading(self._timing.wall(), self._timing.elapsed())

    def accept(self, snapshot: Snapshot, asked: Reading) -> None:
        """Take a snapshot whose signature was verified. Raises :class:`RolledBack` if a newer one was seen before.

        One that is already too old is taken too, if it is news: it can only refuse more tokens. The same statement
        again does not make the view younger.
        """
        known = self._snapshot
        if known is not None and not snapshot.follows(known):
            raise RolledBack
        self._snapshot = snapshot
        self._rules = snapshot.rules
        if known is not None and (snapshot.epoch, snapshot.issued_at) == (known.epoch, known.issued_at):
            return
        self._asked = asked
        self._age_then = max(0.0, asked.wall - snapshot.issued_at - self._leeway)

    def age(self) -> float:
        """For how many seconds rules may have been made that this view does not have; infinite before the first."""
        now = self.now()
        return self._age_then + max(now.elapsed - self._asked.elapsed, now.wall - self._asked.wall, 0.0)

    def is_fresh(self) -> bool:
        """Whether the view is young enough to accept tokens by."""
        return self.age() <= self._max_staleness

    def require_fresh(self) -> None:
        """Raise ``Unavailable`` (``VIEW_STALE``) unless the view is young enough: what is not known may be revoked."""
        if not self.is_fresh():
            text = f"what is known here of revocations is older than {ceil(self._max_staleness)} seconds; try again"
            raise Unavailable(Code.VIEW_STALE, text, retry_after=RETRY_SECONDS)
