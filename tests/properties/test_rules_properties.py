"""The rule index against the definition of what a rule kills."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from broker.core.rules import Block, BlockIndex, Rule, RuleIndex
from broker.core.selector import EVERYTHING, Fact, Selector, parse_selector

FIELDS = ("token", "task", "key", "agent", "role", "scope", "audience", "tier", "issuer")
VALUES = ("a", "b", "c")
facts_of_credentials = st.frozensets(st.tuples(st.sampled_from(FIELDS), st.sampled_from(VALUES)), max_size=12)
selectors = st.just(Selector(everything=True)) | st.dictionaries(
    st.sampled_from(FIELDS), st.sampled_from(VALUES), min_size=1, max_size=3
).map(parse_selector)
epochs = st.integers(0, 40)


def covers(selector: Selector, facts: frozenset[Fact]) -> bool:
    """Say what selecting means, from the wire form alone."""
    wire = selector.to_dict()
    return "everything" in wire or all((name, value) in facts for name, value in wire.items())


def kills(candidate: Rule, facts: frozenset[Fact], epoch: int) -> bool:
    """Say what killing means: it selects, and it is younger than the credential or not numbered yet."""
    return covers(candidate.selector, facts) and (candidate.number is None or candidate.number > epoch)


class IndexAgainstList(RuleBasedStateMachine):
    """Rules are added, numbered late, replaced and removed; a plain list is asked the same questions."""

    @initialize(start=st.integers(0, 5))
    def begin(self, start: int) -> None:
        """Start with some rules long ended."""
        self.index = RuleIndex(epoch=start)
        self.known: dict[str, Rule] = {}
        self.epoch = start
        self.made = 0

    @rule(selector=selectors, durable=st.booleans())
    def add(self, selector: Selector, durable: bool) -> None:
        """Make a rule, durable at once or not."""
        self.made += 1
        number = None
        if durable:
            self.epoch += 1
            number = self.epoch
        self._put(Rule(f"rule_{self.made}", selector, number, at=0.0, by="op", reason="r", ends_at=float(self.made)))

    @rule(data=st.data())
    def number_late(self, data: st.DataObject) -> None:
        """Give a pending rule its number, as the ledger does when it can write again."""
        pending = sorted(rule_id for rule_id, known in self.known.items() if known.number is None)
        if pending:
            self.epoch += 1
            known = self.known[data.draw(st.sampled_from(pending))]
            self._put(Rule(known.id, known.selector, self.epoch, at=0.0, by="op", reason="r", ends_at=known.ends_at))

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """Forget some rules, and some that were never there."""
        ids = data.draw(st.lists(st.sampled_from([*sorted(self.known), "rule_0"]), max_size=4))
        self.index.remove(ids)
        for rule_id in ids:
            self.known.pop(rule_id, None)

    @rule(facts=facts_of_credentials, epoch=epochs)
    def ask(self, facts: frozenset[Fact], epoch: int) -> None:
        """The index names a killer iff there is one, and the one it names does kill."""
        killer = self.index.killer(facts, epoch)
        assert (killer is not None) == any(kills(known, facts, epoch) for known in self.known.values())
        assert killer is None or (kills(killer, facts, epoch) and self.known[killer.id] == killer)

    @rule(now=st.integers(0, 60))
    def ended(self, now: int) -> None:
        """The rules that have ended are those whose time has come."""
        assert set(self.index.ended(now)) == {
            known.id for known in self.known.values() if known.ends_at is not None and known.ends_at <= now
        }

    @invariant()
    def same_rules(self) -> None:
        """It holds the same rules and counts the same epoch."""
        if not hasattr(self, "index"):
            return
        live = self.index.live()
        assert {known.id: known for known in live} == self.known
        assert [known.rank for known in live] == sorted(known.rank for known in live)
        assert len(self.index) == len(self.known)
        assert self.index.epoch == self.epoch

    def _put(self, made: Rule) -> None:
        self.known[made.id] = made
        self.index.add(made)


IndexAgainstList.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestIndexAgainstList = IndexAgainstList.TestCase


@given(selectors, facts_of_credentials)
def test_selecting_is_having_every_fact(selector: Selector, facts: frozenset[Fact]) -> None:
    """The set comparison agrees with the wire form read field by field."""
    known = facts | {EVERYTHING} if selector.everything else facts
    assert selector.selects(known) == covers(selector, facts)


@given(
    st.lists(st.tuples(selectors, st.none() | st.integers(1, 20)), max_size=8),
    st.lists(st.integers(0, 7), max_size=3),
    facts_of_credentials,
    st.integers(0, 20),
)
def test_blocks_refuse_what_they_cover_until_they_end(
    blocks: list[tuple[Selector, int | None]], lifted: list[int], facts: frozenset[Fact], now: int
) -> None:
    """A grant is refused iff some block covers it that has neither ended nor been lifted."""
    index = BlockIndex()
    for number, (selector, until) in enumerate(blocks):
        index.add(Block(f"blk_{number}", selector, rule=1, at=0.0, by="op", reason="r", until=until))
    for number in lifted:
        index.lift(f"blk_{number}")
    expected = any(
        covers(selector, facts) and (until is None or until > now) and number not in lifted
        for number, (selector, until) in enumerate(blocks)
    )
    assert (index.refusing(facts, now) is not None) == expected
    index.forget_ended(now)
    assert (index.refusing(facts, now) is not None) == expected
