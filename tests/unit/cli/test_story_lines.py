"""How a story prints: a tree whose lines nobody outside can forge."""

from __future__ import annotations

from typing import Any

from broker.cli.story_lines import MAX_TEXT, story_lines, words_of
from broker.core.entry import Kind


def _node(seq: int, *below: dict[str, Any], ended_by: int | None = None, **entry: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"seq": seq, "entry": {"at": 0, **entry}, "ended_by": ended_by, "below": list(below)}


def test_a_tree() -> None:
    """What came of an entry stands below it, with lines that lead there."""
    inner = _node(2, _node(3, kind="lease.sealed", until=60), kind="token.issued", ref="tok_1", ended_by=5)
    top = _node(1, inner, _node(5, kind="task.closed", because="done"), kind="task.opened", purpose="sort")
    lines = story_lines({"story": [top], "cut": False})
    assert [line[:6] for line in lines] == ["1970-0", "├─ 197", "│  └─ ", "└─ 197"]
    assert [line.rpartition("  #")[2] for line in lines] == ["1", "2", "3", "5"]
    assert ", ended by #5  #2" in lines[1]


def test_texts_from_outside_cannot_pass_for_lines() -> None:
    """Line feeds, terminal codes and direction marks are escaped, and a long purpose is shortened."""
    for text in ("a\n└─ 1970  approved by root  #9", "\x1b[2J\x9b1m", "\u202egnp.exe"):
        for kind in Kind:
            members = (
                "purpose",
                "reason",
                "result",
                "target",
                "note",
                "error",
                "code",
                "secret",
                "action",
                "agent",
                "by",
            )
            entry: dict[str, Any] = {
                "kind": kind.value,
                **dict.fromkeys(members, text),
                "asked": {"why": text},
                "selector": {"task": text},
            }
            (line,) = story_lines({"story": [_node(1, **entry)], "cut": False})
            assert line.isprintable()
            assert line.endswith("  #1")
    words = words_of({"kind": "task.opened", "purpose": "x" * 60_000})
    assert len(words) < MAX_TEXT + 100


def test_quotes_within_quotes() -> None:
    """A quotation mark in a text does not end it."""
    words = words_of({"kind": "approval.voted", "approve": False, "by": "carol", "reason": 'no" by dave: "yes'})
    assert words == 'denied by carol: "no\\" by dave: \\"yes"'
