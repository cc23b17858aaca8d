"""What commands print, and that nothing from outside speaks to the terminal."""

from __future__ import annotations

import io
import json
import sys

import pytest

from broker.cli.outcome import ExitCode, Failure
from broker.cli.output import Facts, Table, moment, printable, show, show_failure, to_json

NASTY = "a\x1b[2J\x07\r\nb\x9b31mc\u202ed\u2028e[red]f[/red]:smile:\\"


class Terminal(io.StringIO):
    """An output that says it is a terminal."""

    def isatty(self) -> bool:
        """Always."""
        return True


def _on_terminal(monkeypatch: pytest.MonkeyPatch, answer: object, *parts: Table | Facts | str) -> str:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    show(answer, *parts, as_json=False)
    return terminal.getvalue()


def test_control_characters_are_shown_as_escapes() -> None:
    """Everything that is not printable is spelt out: controls, C1 controls, bidi overrides, line separators."""
    shown = printable(NASTY)
    assert shown == "a\\x1b[2J\\x07\\x0d\\x0ab\\x9b31mc\\u202ed\\u2028e[red]f[/red]:smile:\\"
    assert shown.isprintable()
    assert printable("\U000e0041") == "\\U000e0041"
    assert printable(shown) == shown


def test_values_are_told_in_words() -> None:
    """Absent, true, lists and selectors read as a person would say them; numbers stay as they can be typed."""
    assert printable(None) == "-"
    assert printable(True) == "yes"
    assert printable(1234567) == "1234567"
    assert printable(["a", "b"]) == "a, b"
    assert printable({"role": "support", "scope": "x\x1b"}) == "role support, scope x\\x1b"


def test_json_is_ascii() -> None:
    """JSON output brings no byte to the terminal that could be an instruction, and loses nothing."""
    text = to_json({"reason": NASTY})
    assert text.isascii()
    assert "\x1b" not in text
    assert json.loads(text) == {"reason": NASTY}


def test_plain_columns_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    """A pipe gets aligned columns without any markup, nothing cut off."""
    long = "x" * 300
    show({}, Table(("id", "reason"), [("b1", long), ("b22", NASTY)], "none"), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "id   reason"
    assert lines[1] == f"b1   {long}"
    assert lines[2].startswith("b22  a\\x1b[2J")


def test_empty_tables_say_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No rows is an answer, in words."""
    show({}, Table(("id",), [], "No blocks are in force."), as_json=False)
    assert capsys.readouterr().out == "No blocks are in force.\n"
    assert "No blocks are in force." in _on_terminal(monkeypatch, {}, Table(("id",), [], "No blocks are in force."))


def test_facts_leave_out_what_is_absent(capsys: pytest.CaptureFixture[str]) -> None:
    """A fact without a value is not mentioned."""
    show({}, Facts("Title", [("one", 1), ("two", None), ("three", False)]), as_json=False)
    assert capsys.readouterr().out == "Title\n  one:    1\n  three:  no\n"


def test_texts_from_outside_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal, Rich's own markup, emoji codes and controls in a text are shown, not obeyed."""
    parts = (Table(("reason",), [(NASTY,)], "none"), Facts(NASTY, [("reason", NASTY)]), NASTY)
    drawn = _on_terminal(monkeypatch, {}, *parts)
    assert drawn.count("e[red]f[/red]:smile:") == 4
    assert "\x1b[2J" not in drawn
    assert "\x9b" not in drawn
    assert "\u202e" not in drawn


def test_json_wins_over_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --json the answer is JSON, wherever it goes."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    show({"a": [1]}, "words", as_json=True)
    assert json.loads(terminal.getvalue()) == {"a": [1]}


def test_failures_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A failure is told on standard error with its code, and how to find its record."""
    failure = Failure(ExitCode.REFUSED, "no_role", "no \x1b role", refusal="ref_1")
    show_failure(failure, as_json=False)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "broker: no_role: no \\x1b role",
        "The record of this refusal: broker policy explain --refusal ref_1",
    ]
    show_failure(failure, as_json=True)
    told = json.loads(capsys.readouterr().err)
    assert told == {"code": "no_role", "message": "no \x1b role", "refusal": "ref_1"}


def test_moments_are_utc() -> None:
    """Times are RFC 3339 in UTC; a time that no calendar has does not break the output."""
    assert moment(0) == "1970-01-01T00:00:00Z"
    assert moment(None) is None
    assert moment(1e30) == "1e+30"


def test_ids_are_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """However narrow the terminal, an id can be copied from it: nothing ends in an ellipsis."""
    identity = "blk_01M82N31M9RE60BA0Q2GG8HGM1"
    monkeypatch.setenv("COLUMNS", "60")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    columns = ("id", "refuses", "until", "since", "by", "reason")
    table = Table(columns, [(identity, "agent alpha", "2026-11-22T22:12:38Z", "2026", "operator", "x" * 50)], "none")
    show({}, table, Facts("Title", [("root", "f" * 64)]), f"To lift it:  broker blocks lift {identity}", as_json=False)
    drawn = terminal.getvalue()
    assert drawn.count(identity) == 2
    assert "…" not in drawn
    assert drawn.count("f") >= 64
    assert f"  broker blocks lift {identity}\n" in drawn
