"""Rules and blocks in memory: the O(1) index that says whether a credential is dead, or may not be granted anew.

Rule *n* kills every credential that it selects and whose epoch is less than *n* (no clock is involved). A rule that is
not yet durable has no number: it stands above every epoch until it is written (law 1).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from math import inf

from broker.core.selector import EVERYTHING, Fact, Selector


@dataclass(frozen=True, slots=True)
class Rule:
    """One revocation.

    ``id`` is unique; ``number`` is the epoch it made, or ``None`` while it is not durable. ``ends_at`` (Unix seconds)
    is when the longest-lived credential it could hit has expired; ``None`` while unknown.
    """

    id: str
    selector: Selector
    number: int | None
    at: float
    by: str
    reason: str
    incident: str | None = None
    ends_at: float | None = None

    @property
    def rank(self) -> float:
        """The number to compare epochs with; infinite while the rule is not durable."""
        return inf if self.number is None else self.number


@dataclass(frozen=True, slots=True)
class Block:
    """Refuses *new* grants that its selector covers, until ``until`` (Unix seconds) or until it is lifted."""

    id: str
    selector: Selector
    rule: int | None
    at: float
    by: str
    reason: str
    until: float | None = None


Watcher = Callable[[Rule, int], None]
"""Is told of a rule that has come into force, or has got its number, and of the epoch before."""


class RuleIndex:
    """The live rules, indexed so that a check costs one look-up per fact of the credential, however many rules live.

    Not thread-safe: it belongs to one event loop.
    """

    def __init__(self, rules: Iterable[Rule] = (), *, epoch: int = 0) -> None:
        """``epoch`` is the number of the last rule that was committed, ended or not."""
        self._rules: dict[str, Rule] = {}
        self._buckets: dict[Fact, dict[str, Rule]] = {}
        self._highest: dict[Fact, float] = {}
        self._pending: set[str] = set()
        self._epoch = epoch
        self._revision = 0
        self._watchers: list[Watcher] = []
        for rule in rules:
            self.add(rule)

    @property
    def epoch(self) -> int:
        """The number of the last rule that was committed, as far as this process knows: they count up by one.

        Only where an older ledger was accepted it jumps, past all numbers that the lost part can have had.
        """
        return self._epoch

    @property
    def revision(self) -> int:
        """Another number after every change: whoever keeps something that was made of the rules sees when it is old."""
        return self._revision

    def watch(self, watcher: Watcher) -> None:
        """Tell ``watcher`` from now on, as soon as a rule is in force; it must not raise."""
        self._watchers.append(watcher)

    def __len__(self) -> int:
        """How many rules are live."""
        return len(self._rules)

    def __iter__(self) -> Iterator[Rule]:
        """All live rules in any order."""
        return iter(self._rules.values())

    def live(self) -> tuple[Rule, ...]:
        """All live rules in the order of their rank; those without a number come last."""
        return tuple(sorted(self._rules.values(), key=lambda rule: (rule.rank, rule.id)))

    def pending(self) -> tuple[Rule, ...]:
        """The rules without a number, in the order of their ids."""
        return tuple(self._rules[rule_id] for rule_id in sorted(self._pending))

    def get(self, rule_id: str) -> Rule | None:
        """Return a live rule by its id."""
        return self._rules.get(rule_id)

    def add(self, rule: Rule) -> None:
        """Add a rule, or replace the one of the same id (a pending rule that got its number)."""
        known, before = self._rules.get(rule.id), self._epoch
        if known is not None:
            self.remove([rule.id])
        self._rules[rule.id] = rule
        self._index(rule)
        if rule.number is None:
            self._pending.add(rule.id)
        else:
            self._epoch = max(self._epoch, rule.number)
        self._revision += 1
        if known is None or known.number != rule.number:
            for watcher in self._watchers:
                watcher(rule, before)

    def remove(self, rule_ids: Iterable[str]) -> None:
        """Forget rules (ended, or replaced); the epoch stays."""
        anchors: set[Fact] = set()
        for rule in [self._rules.pop(rule_id) for rule_id in rule_ids if rule_id in self._rules]:
            anchor = rule.selector.facts()[0]
            del self._buckets[anchor][rule.id]
            anchors.add(anchor)
            self._pending.discard(rule.id)
            self._revision += 1
        for anchor in anchors:  # once each, however many of its rules went
            bucket = self._buckets[anchor]
            if bucket:
                self._highest[anchor] = max(other.rank for other in bucket.values())
            else:
                del self._buckets[anchor], self._highest[anchor]

    def ended(self, now: float) -> tuple[str, ...]:
        """The ids of the rules that no living credential can need any more."""
        return tuple(rule.id for rule in self._rules.values() if rule.ends_at is not None and rule.ends_at <= now)

    def killer(self, facts: Iterable[Fact], epoch: int) -> Rule | None:
        """Return a rule that kills a credential with these facts and this epoch, or None if it lives."""
        if not self._rules:
            return None
        facts = frozenset(facts)
        for fact in (*facts, EVERYTHING):
            if self._highest.get(fact, 0) > epoch:
                for rule in self._buckets[fact].values():
                    if rule.rank > epoch and rule.selector.selects(facts):
                        return rule
        return None

    def _index(self, rule: Rule) -> None:
        anchor = rule.selector.facts()[0]
        self._buckets.setdefault(anchor, {})[rule.id] = rule
        self._highest[anchor] = max(rule.rank, self._highest.get(anchor, 0))


class BlockIndex:
    """The live blocks. Not thread-safe: it belongs to one event loop."""

    def __init__(self, blocks: Iterable[Block] = ()) -> None:
        """Start with ``blocks``."""
        self._blocks: dict[str, Block] = {block.id: block for block in blocks}

    def live(self, now: float) -> tuple[Block, ...]:
        """The blocks that are in force at ``now``."""
        return tuple(block for block in self._blocks.values() if block.until is None or block.until > now)

    def get(self, block_id: str) -> Block | None:
        """Return a block by its id."""
        return self._blocks.get(block_id)

    def add(self, block: Block) -> None:
        """Add or replace a block."""
        self._blocks[block.id] = block

    def lift(self, block_id: str) -> None:
        """Forget a block; tokens that a rule killed stay dead."""
        self._blocks.pop(block_id, None)

    def keep(self, block_ids: Collection[str]) -> None:
        """Forget the blocks that are durable and not among these; those that are not written yet stay."""
        kept = (block for block in self._blocks.values() if block.rule is None or block.id in block_ids)
        self._blocks = {block.id: block for block in kept}

    def forget_ended(self, now: float) -> None:
        """Drop blocks whose time has passed."""
        self._blocks = {block.id: block for block in self.live(now)}

    def refusing(self, facts: frozenset[Fact], now: float) -> Block | None:
        """Return a block in force that covers a grant with these facts, or None."""
        if not self._blocks:
            return None
        return next((block for block in self.live(now) if block.selector.selects(facts)), None)
