"""What this resource server knows of the broker's revocation rules, and how old that knowledge is."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum, auto
from math import ceil, inf
from typing import Final

from broker.core.errors import Code, Unavailable
from broker.core.feed import Heartbeat, RuleStatement
from broker.core.pacing import Timing
from broker.core.rules import Rule, RuleIndex
from broker.core.snapshot import Snapshot

RETRY_SECONDS: Final = 1
MAX_PENDING: Final = 10_000
"""How many rules without a number are taken one by one; for more, there are snapshots."""

_FORGET_SECONDS: Final = 60
_NEVER: Final = -1


class RolledBack(Exception):
    """A snapshot is older than one that was seen before: an old copy, or a broker whose ledger was put back."""


class News(Enum):
    """What a statement is to a view."""

    TAKEN = auto()
    """It was the next one: the view has changed, or is younger."""
    KNOWN = auto()
    """It says nothing that is not known, or was true before what is known."""
    GAP = auto()
    """Something between it and the view is missing: only a snapshot helps."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The moment at which a snapshot was asked for, by both clocks (see :class:`~broker.core.pacing.Timing`)."""

    wall: float
    elapsed: float


class View:
    """The newest snapshot, and the rules since. It never goes back to an earlier one.

    Its age counts from the broker's own statement of when it was true, and goes on by whichever clock has moved more
    since: a wall clock that is set back cannot make an old view young, and neither can a suspended machine.
    """

    def __init__(self, timing: Timing, *, max_staleness: float, leeway: float) -> None:
        """Times are seconds. ``leeway`` is by how much the clocks of the broker and of this host may differ."""
        self._timing = timing
        self._max_staleness = max_staleness
        self._leeway = leeway
        self._told: Callable[[Collection[Rule]], None] = lambda _: None
        self._rules = RuleIndex()
        self._pending: frozenset[str] = frozenset()
        self._epoch: int | None = None
        self._mark = ""
        self._issued_at = 0
        self._true_at = _NEVER
        self._forget_at = 0
        self._asked = Reading(0.0, 0.0)
        self._age_then = inf

    @property
    def rules(self) -> RuleIndex:
        """The rules to check tokens with. They only mean something while :meth:`require_fresh` passes."""
        return self._rules

    @property
    def epoch(self) -> int | None:
        """The epoch of the view, or None before the first snapshot."""
        return self._epoch

    @property
    def newest(self) -> tuple[int | None, int]:
        """The epoch, and the latest time (Unix seconds) of a statement that was taken at it: this never goes back."""
        return self._epoch, self._issued_at

    @property
    def mark(self) -> str:
        """What only those know who were told of this epoch (:mod:`broker.core.marks`)."""
        return self._mark

    @property
    def pending(self) -> frozenset[str]:
        """The ids of the rules that stand above every epoch, since they are not durable yet."""
        return self._pending

    def tell(self, told: Callable[[Collection[Rule]], None]) -> None:
        """Let ``told`` hear of rules that were not known before, as soon as they count."""
        self._told = told

    def now(self) -> Reading:
        """Read both clocks: to be done before a snapshot is asked for, so that its age is never underestimated."""
        return Reading(self._timing.wall(), self._timing.elapsed())

    def accept(self, snapshot: Snapshot, asked: Reading) -> News:
        """Take a snapshot whose signature was verified. Raises :class:`RolledBack` if a newer one was seen before.

        One that is already too old is taken too, if it is news: it can only refuse more tokens. The same statement
        again does not make the view younger.
        """
        said = (snapshot.epoch, snapshot.issued_at)
        if self._epoch is not None and said < (self._epoch, self._issued_at):
            raise RolledBack
        live = snapshot.rules.live()
        pending = frozenset(rule.id for rule in live if rule.number is None)
        before, self._rules = self._rules, snapshot.rules
        news = snapshot.epoch != self._epoch or not pending <= self._pending
        known = said == (self._epoch, self._true_at)
        if not known:
            self._was_true(snapshot.issued_at, asked)
        self._epoch, self._mark, self._pending = snapshot.epoch, snapshot.mark, pending
        if news:
            self._told([rule for rule in live if before.get(rule.id) is None])
        return News.KNOWN if known else News.TAKEN

    def take(self, stated: RuleStatement) -> News:
        """Take one rule whose statement was verified.

        One without a number counts whatever was before it, since it can only refuse more tokens. It never takes the
        place of the same rule with a number: that would end what was issued after it.
        """
        if self._epoch is None or stated.previous > self._epoch:
            return News.GAP
        rule = stated.rule
        if rule.number is None:
            if self._rules.get(rule.id) is not None:
                return News.KNOWN
            if len(self._pending) >= MAX_PENDING:
                return News.GAP
            self._pending |= {rule.id}
        else:
            if rule.number <= self._epoch:
                return News.KNOWN
            if stated.previous != self._epoch:
                return News.GAP
            self._pending -= {rule.id}
            self._epoch, self._mark = rule.number, stated.mark
        self._issued_at, self._true_at = max(self._issued_at, stated.issued_at), _NEVER
        self._rules.add(rule)
        self._told((rule,))
        return News.TAKEN

    def confirm(self, heartbeat: Heartbeat, heard: Reading) -> News:
        """Take a heartbeat that was verified: if it says what is known here, the view is as young as that."""
        if self._epoch is None:
            return News.GAP
        if (heartbeat.epoch, heartbeat.issued_at) < (self._epoch, self._issued_at):
            return News.KNOWN
        if heartbeat.epoch != self._epoch or heartbeat.pending != self._pending:
            return News.GAP
        if heartbeat.issued_at == self._true_at:
            return News.KNOWN
        self._was_true(heartbeat.issued_at, heard)
        self._forget_ended(heartbeat.issued_at)
        return News.TAKEN

    def leave(self) -> None:
        """Forget how young the view is: nothing is accepted by it until there is a younger statement."""
        self._age_then, self._true_at = inf, _NEVER

    def age(self) -> float:
        """For how many seconds rules may have been made that this view does not have; infinite before the first."""
        now = self.now()
        return self._age_then + max(now.elapsed - self._asked.elapsed, now.wall - self._asked.wall, 0.0)

    def left(self) -> float:
        """For how many seconds more the view is young enough, if nothing is heard; negative if it is not."""
        return self._max_staleness - self.age()

    def is_fresh(self) -> bool:
        """Whether the view is young enough to accept tokens by."""
        return self.left() >= 0

    def require_fresh(self) -> None:
        """Raise ``Unavailable`` (``VIEW_STALE``) unless the view is young enough: what is not known may be revoked."""
        if not self.is_fresh():
            text = f"what is known here of revocations is older than {ceil(self._max_staleness)} seconds; try again"
            raise Unavailable(Code.VIEW_STALE, text, retry_after=RETRY_SECONDS)

    def _was_true(self, issued_at: int, asked: Reading) -> None:
        self._issued_at = self._true_at = issued_at
        self._asked = asked
        self._age_then = max(0.0, asked.wall - issued_at - self._leeway)

    def _forget_ended(self, broker_now: int) -> None:
        """Drop rules that no living token can need, by the broker's clock: one that is set wrong here drops none."""
        if broker_now >= self._forget_at:
            self._rules.remove(self._rules.ended(broker_now))
            self._forget_at = broker_now + _FORGET_SECONDS
