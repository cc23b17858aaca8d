"""Markdown in which no text from outside means anything: not as Markdown, not as HTML, not to a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

MAX_TEXT: Final = 300
"""Characters of a text from outside that are shown."""

_MEANINGFUL: Final = frozenset(r"\`*_{}[]()<>#+!|~&$^@:.")
"""The colon, the at sign and the dot, too: some readers make links of anything that looks like an address."""

_HIDDEN: Final = "\N{REPLACEMENT CHARACTER}"


def text(value: object) -> str:
    """Return a text from outside so that it is read as just these characters, on one line.

    Punctuation that means anything in any Markdown is escaped, which is always allowed (CommonMark 0.31, 2.4); what
    cannot be printed, line ends and marks that reverse text among it, is replaced.
    """
    if value is None:
        return "-"
    shown = str(value)
    cut = shown if len(shown) <= MAX_TEXT else f"{shown[:MAX_TEXT]}…"
    return "".join(_escaped(character) for character in cut) if cut.strip() else "-"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> list[str]:
    """Return a table whose cells are Markdown already; without rows, the sentence ``empty``."""
    lines = [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    if not lines:
        return [empty, ""]
    return [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *lines, ""]


def heading(level: int, title: str) -> list[str]:
    """Return a heading."""
    return [f"{'#' * level} {title}", ""]


def _escaped(character: str) -> str:
    if character == " ":
        return " "
    if not character.isprintable():
        return _HIDDEN
    return f"\\{character}" if character in _MEANINGFUL else character
