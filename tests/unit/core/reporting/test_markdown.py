"""Texts from outside in a report: whatever they hold, they are read as just these characters."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.cli.report_page import page
from broker.core.reporting.markdown import MAX_TEXT, table, text

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![x](https://evil.example/x.png)",
    "https://evil.example www.evil.example mallory@evil.example <https://evil.example>",
    "a | b |\n| c",
    "\n\n# Heading\n\n* list",
    "`code` **bold** _it_ ~~gone~~ &lt;b&gt; &#60;b&#62;",
    "\\| \\\\| \\",
    "\x1b[31m \x00 \u202e desrever \u2028 \ufeff",
    "[x]: https://evil.example",
]


def cell(value: str) -> str:
    """Return what a reader of the page sees in a table's only cell."""
    shown = page("\n".join(table(("name",), [(text(value),)], "none")))
    found = re.findall(r"<td>(.*?)</td>", shown, re.DOTALL)
    assert len(found) == 1, shown
    assert "<" not in found[0]
    return html.unescape(found[0])


def readable(value: str) -> str:
    """Return a text as it should be seen: one line, what cannot be printed replaced, cut, trimmed."""
    cut = value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}…"
    seen = "".join(each if each.isprintable() else "\ufffd" for each in cut)
    return seen.strip(" ") if cut.strip() else "-"


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_text_is_read_as_it_stands(value: str) -> None:
    """No markup, no link, no image, no second cell comes of it."""
    assert cell(value) == readable(value)


@given(st.text(st.characters(codec="utf-8"), max_size=60) | st.text("|\\`<>&*_[]()!#: \n", max_size=30))
def test_any_text_is_read_as_it_stands(value: str) -> None:
    """The same of texts that nobody thought of."""
    assert cell(value) == readable(value)


def test_a_long_text_is_cut() -> None:
    """A purpose of 60 KB is not repeated as a whole."""
    assert len(text("x" * 60_000)) == MAX_TEXT + 1


def test_a_page_runs_and_loads_nothing() -> None:
    """Its policy forbids scripts and everything from elsewhere."""
    shown = page("# Title")
    assert "default-src 'none'" in shown
    assert "<script" not in shown
    assert "http" not in shown.replace('http-equiv="', "")
