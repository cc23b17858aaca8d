"""Rules and blocks in memory."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from broker.core.rules import Block, BlockIndex, Rule, RuleIndex
from broker.core.selector import Fact, Selector

FACTS: frozenset[Fact] = frozenset({("token", "t1"), ("agent", "a"), ("role", "r"), ("scope", "s1"), ("scope", "s2")})


def rule(number: int | None, selector: Selector | None = None, *, rule_id: str | None = None) -> Rule:
    """Make a rule; its id follows its number."""
    selector = selector or Selector(agent="a")
    return Rule(rule_id or f"rule_{number}", selector, number, at=0.0, by="op", reason="why")


def block(block_id: str, selector: Selector, until: float | None = None) -> Block:
    """Make a block."""
    return Block(block_id, selector, rule=1, at=0.0, by="op", reason="why", until=until)


def test_a_rule_kills_what_was_granted_before_it_only() -> None:
    """A credential of epoch n - 1 dies by rule n, one of epoch n lives: the same second does not matter."""
    index = RuleIndex([rule(5)])
    assert index.killer(FACTS, 4) == rule(5)
    assert index.killer(FACTS, 5) is None
    assert index.killer(FACTS, 6) is None


def test_a_rule_kills_what_it_selects_only() -> None:
    """All the selector's facts must be there."""
    index = RuleIndex([rule(5, Selector(agent="a", scope="s3")), rule(6, Selector(agent="b"))])
    assert index.killer(FACTS, 0) is None
    index.add(rule(7, Selector(agent="a", scope="s2")))
    assert index.killer(FACTS, 0) == rule(7, Selector(agent="a", scope="s2"))


def test_everything_is_everything() -> None:
    """The rule for everything kills a credential without looking at its facts."""
    index = RuleIndex([rule(1, Selector(everything=True))])
    assert index.killer(frozenset(), 0) is not None
    assert index.killer(FACTS, 0) is not None
    assert index.killer(FACTS, 1) is None


def test_a_rule_that_is_not_durable_stands_above_every_epoch() -> None:
    """Law 1: until it has a number it kills whatever it selects, however new; then it is exact."""
    index = RuleIndex(epoch=7)
    index.add(rule(None, rule_id="x"))
    assert rule(None).rank == inf
    assert index.killer(FACTS, 10**9) is not None
    assert index.epoch == 7
    index.add(rule(8, rule_id="x"))
    assert len(index) == 1
    assert index.epoch == 8
    assert index.killer(FACTS, 7) is not None
    assert index.killer(FACTS, 8) is None


def test_the_epoch_counts_rules_that_have_ended() -> None:
    """Removing a rule does not take the epoch back, or the next rule would not kill what was issued since."""
    index = RuleIndex([rule(3)], epoch=2)
    index.remove(["rule_3", "rule_unknown"])
    assert (len(index), index.epoch, index.killer(FACTS, 0)) == (0, 3, None)


def test_an_older_rule_still_counts_when_the_newest_is_removed() -> None:
    """Removing one rule of several for the same fact leaves the others exact."""
    index = RuleIndex([rule(1), rule(2), rule(3)])
    index.remove(["rule_3"])
    assert index.killer(FACTS, 1) == rule(2)
    assert index.killer(FACTS, 2) is None
    index.remove(["rule_1", "rule_2"])
    assert index.killer(FACTS, 0) is None


def test_live_rules_come_in_the_order_of_their_numbers() -> None:
    """Pending rules come last: that is the order in which verifiers are told."""
    index = RuleIndex([rule(2), rule(None), rule(1)])
    assert [live.number for live in index.live()] == [1, 2, None]
    assert index.get("rule_2") == rule(2)
    assert index.get("rule_9") is None


def test_rules_end_when_nothing_they_hit_can_live() -> None:
    """A rule ends at its time; one without a time, such as a pending one, does not."""
    ended, live = replace(rule(1), ends_at=100.0), replace(rule(2), ends_at=101.0)
    index = RuleIndex([ended, live, rule(None)])
    assert index.ended(99.9) == ()
    assert index.ended(100.0) == ("rule_1",)


def test_an_empty_index_kills_nothing() -> None:
    """Without rules every credential lives."""
    assert RuleIndex(epoch=9).killer(FACTS, 0) is None


def test_looking_a_token_up_does_not_depend_on_how_many_rules_there_are() -> None:
    """Law 3: the index looks at the rules that share a fact with the token, not at the others."""
    index = RuleIndex(rule(n, Selector(token=f"other-{n}")) for n in range(1, 20_001))
    looked_at = 0

    class Watched(frozenset[Fact]):
        def issuperset(self, other: object) -> bool:
            nonlocal looked_at
            looked_at += 1
            return super().issuperset(other)  # type: ignore[arg-type]

    assert index.killer(Watched(FACTS), 0) is None
    assert looked_at == 0


@pytest.mark.parametrize(("now", "refused"), [(99.9, True), (100.0, False), (500.0, False)])
def test_a_block_ends_at_its_time(now: float, refused: bool) -> None:
    """It refuses until then and not at that moment."""
    index = BlockIndex([block("b", Selector(agent="a"), until=100.0)])
    assert (index.refusing(FACTS, now) is not None) is refused
    assert len(index.live(now)) == int(refused)


def test_a_block_without_an_end_holds_until_it_is_lifted() -> None:
    """Time does not end it."""
    index = BlockIndex()
    index.add(block("b", Selector(role="r")))
    assert index.refusing(FACTS, 1e12) is not None
    index.forget_ended(1e12)
    assert index.get("b") is not None
    index.lift("b")
    index.lift("b")
    assert index.refusing(FACTS, 0.0) is None


def test_a_block_refuses_what_its_selector_covers_only() -> None:
    """Every named fact must be there; everything covers all."""
    index = BlockIndex([block("b", Selector(role="r", scope="s3"))])
    assert index.refusing(FACTS, 0.0) is None
    index.add(block("all", Selector(everything=True)))
    found = index.refusing(frozenset(), 0.0)
    assert found is not None
    assert found.id == "all"


def test_an_ended_block_that_is_forgotten_leaves_the_others() -> None:
    """Law 11: blocks are dropped after their end, and only then."""
    index = BlockIndex([block("old", Selector(agent="a"), until=10.0), block("new", Selector(agent="a"), until=20.0)])
    index.forget_ended(10.0)
    assert index.get("old") is None
    assert index.get("new") is not None
