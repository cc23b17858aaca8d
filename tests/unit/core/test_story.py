"""How entries become a tree."""

from __future__ import annotations

from typing import Any

from broker.core.story import Happened, Node, tell


def _entry(seq: int, kind: str, ref: str | None = None, **members: Any) -> Happened:  # noqa: ANN401 - JSON
    return Happened(seq, {"kind": kind, "at": seq * 1000, **({} if ref is None else {"ref": ref}), **members})


def _rule(seq: int, number: int, **selector: str) -> Happened:
    return _entry(seq, "rule.added", f"rule_{number}", number=number, selector=selector, by="op", reason="r")


def _shape(nodes: list[Node]) -> list[Any]:
    return [[node.entry.seq, *_shape(node.below)] for node in nodes]


def test_circles_are_impossible() -> None:
    """Entries that name each other, or themselves, as where they come from are still told once each."""
    entries = [
        _entry(1, "token.issued", "a", parents=["b"], epoch=0, expires_at=9),
        _entry(2, "token.issued", "b", parents=["a"], epoch=0, expires_at=9),
        _entry(3, "token.issued", "c", parents=["c"], epoch=0, expires_at=9),
    ]
    assert _shape(list(tell("a", entries, []).roots)) == [[1, [2]], [3]]


def test_the_first_rule_that_killed_a_token() -> None:
    """Neither one from before it was issued, nor one from after it expired, nor a second one."""
    token = _entry(5, "token.issued", "a", agent="x", epoch=1, expires_at=20)
    rules = [_rule(4, 1, agent="x"), _rule(8, 2, agent="y"), _rule(9, 3, agent="x"), _rule(10, 4, token="a")]
    story = tell("a", [token], rules)
    assert [node.ended_by for node in story.roots] == [9, None]
    assert _shape(list(story.roots)) == [[5], [9]]
    assert tell("a", [token], [_rule(21, 5, agent="x")]).roots[0].ended_by is None


def test_inherited_facts_kill() -> None:
    """A rule for an ancestor kills what was exchanged for it."""
    child = _entry(5, "token.issued", "b", epoch=0, expires_at=20, lineage="\nagent=x\ntoken=a\n")
    assert tell("b", [child], [_rule(6, 1, agent="x")]).roots[0].ended_by == 6
    assert tell("b", [child], [_rule(6, 1, role="x")]).roots[0].ended_by is None


def test_the_nearest_comes_first() -> None:
    """A token of several ancestors stands below the last one, a sub-task below its parent."""
    entries = [
        _entry(1, "task.opened", "t", path=[]),
        _entry(2, "task.opened", "u", path=["t"]),
        _entry(3, "task.opened", "v", path=["t", "u"]),
        _entry(4, "token.issued", "a", task="v", epoch=0, expires_at=9),
        _entry(5, "token.issued", "b", parents=["a"], task="v", epoch=0, expires_at=9),
        _entry(6, "token.issued", "c", parents=["a", "b"], task="v", epoch=0, expires_at=9),
    ]
    assert _shape(list(tell("t", entries, []).roots)) == [[1, [2, [3, [4, [5, [6]]]]]]]


def test_how_far_a_rule_got_stands_below_it() -> None:
    """In the story of what it ended, and in its own."""
    token = _entry(5, "token.issued", "a", agent="x", epoch=0, expires_at=20)
    rule, other = _rule(6, 1, agent="x"), _rule(7, 2, agent="y")
    spread = [_entry(7 + number, "rule.propagated", f"rule_{number}", number=number) for number in (1, 2)]
    assert _shape(list(tell("a", [token], [rule, other, *spread]).roots)) == [[5], [6, [8]]]
    assert _shape(list(tell("rule_1", [rule, token, spread[0]], [rule]).roots)) == [[5], [6, [8]]]
