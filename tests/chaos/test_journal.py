"""Journals: whole lines, read as they come; and what is measured from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.chaos.journal import Journal, Tail
from tests.chaos.measures import Took, quantiles, times


def test_a_tail(tmp_path: Path) -> None:
    """It tells each line once, and a line that is being written when it is whole."""
    tail = Tail(tmp_path / "a.jsonl")
    assert tail.new() == []
    journal = Journal(tmp_path, "a")
    journal.write("one", at=1.5)
    assert tail.new() == [{"what": "one", "at": 1.5}]
    assert tail.new() == []
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"what": "t')
        file.flush()
        assert tail.new() == []
        file.write('wo"}\n')
    Journal(tmp_path, "a").write("three")
    assert [line["what"] for line in tail.new()] == ["two", "three"]


def _judged(what: str, by: str, began: float, token: str = "tok_1") -> dict[str, Any]:
    return {"what": what, "by": by, "token": token, "began": began, "ended": began + 0.01, "code": None}


def _call(began: float, ended: float, **members: object) -> dict[str, Any]:
    told = {"token": "tok_1", "durable": True, "applied": True, **members}
    return {"what": "revoked", "began": began, "ended": ended, **told}


def _times(folder: Path, *lines: dict[str, Any]) -> list[Took]:
    (folder / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return times(folder)


def test_the_last_first_refusal(tmp_path: Path) -> None:
    """The slowest of those counts that had accepted the token just before, by its first refusal after the call."""
    took = _times(
        tmp_path,
        _judged("accepted", "verifier-1", 9.5),
        _judged("accepted", "verifier-2", 9.9),
        _judged("accepted", "verifier-3", 8.5),  # long before: it may have nothing to do with it any more
        _judged("refused", "verifier-2", 9.0),  # for another reason
        _call(10.0, 10.25),
        _judged("refused", "verifier-1", 10.5),
        _judged("accepted", "verifier-2", 10.5),
        _judged("refused", "verifier-2", 10.75),
        _judged("refused", "verifier-2", 11.0),
        _judged("refused", "verifier-3", 20.0),
        _judged("refused", "verifier-1", 10.1, token="tok_2"),
    )
    assert took == [Took(answered=0.25, applied=True, accepted=0.5, refused=0.75, places=2)]


def test_never_seen_to_refuse(tmp_path: Path) -> None:
    """Then nobody knows, which is not the same as at once."""
    lines = (_judged("accepted", "a", 9.5), _judged("accepted", "b", 9.5), _judged("refused", "a", 10.1))
    (took,) = _times(tmp_path, *lines, _call(10.0, 10.5))
    assert took == Took(answered=0.5, applied=True, accepted=0.0, refused=None, places=2)


def test_what_is_not_durable(tmp_path: Path) -> None:
    """It is no revocation yet."""
    assert _times(tmp_path, _call(10.0, 10.1, durable=False)) == []


def test_quantiles() -> None:
    """Nearest rank: of a hundred values, the 99th is p99 and the 100th the largest."""
    assert quantiles(number / 1000 for number in range(100, 0, -1)) == "50 / 99 / 100 ms"
    assert quantiles([0.007]) == "7 / 7 / 7 ms"
    assert quantiles([]) == "-"
