r"""Regular expressions that a policy may use: a part of Python's syntax in which no input can take long to match.

The values matched come from outside, so a pattern must not be one that explodes on some input. Allowed are literals,
escaped punctuation, ``\d``, ``\w``, ``.``, character classes, groups with alternatives, and ``? * + {m,n}`` behind a
single character or class; behind a group only ``?``. Only one repeat may be followed by what it could match itself;
that bounds the work by the square of the input's length, and inputs over a bound never match.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

MAX_PATTERN: Final = 256
"""The longest pattern in characters."""

MAX_INPUT: Final = 512
"""The longest value in characters that a pattern is tried on; longer ones do not match."""

_MAX_COUNT: Final = 64
_MAX_UNSURE_REPEATS: Final = 1
_MAX_BRANCHES: Final = 8
_SET_MARKS: Final = ("--", "&&", "||", "~~")
_ALPHABET: Final = [chr(code) for code in range(128)] + ["\u00e9"]

_TOKEN: Final = re.compile(
    r"""
      (?P<open> \( (?: \?: | (?!\?) ) )
    | (?P<close> \) )
    | (?P<bar> \| )
    | (?P<repeat> [*+?] (?P<more> [*+?]? ) | \{ (?P<low> \d{1,6} ) (?P<comma> , (?P<high> \d{0,6} ) )? \} )
    | (?P<atom> \\[dw] | \\[!-/:-@\[-`{-~] | \[ \^? (?: \\[dw\]\[\\^/.:-] | [^\\\[\]] )+ \] | [^\\()\[\]{}|*+?^$] )
    """,
    re.VERBOSE | re.ASCII,
)


class PatternError(ValueError):
    """The pattern is not one that a policy may use; the text says why."""


@dataclass(slots=True)
class _Item:
    """One step of a pattern: a character (or class) with its repeat, or a group's ``(``, ``)`` or ``|``."""

    kind: str
    text: str
    repeat: str = ""
    required: bool = True
    characters: frozenset[str] = field(default_factory=frozenset)


def compile_pattern(text: str) -> re.Pattern[str]:
    """Compile a pattern for ``fullmatch``, or raise :class:`PatternError`."""
    if not 0 < len(text) <= MAX_PATTERN:
        raise PatternError(f"a pattern has 1 to {MAX_PATTERN} characters")
    items = _items(text)
    branches = sum(item.kind == "bar" or item.repeat == "?" for item in items)
    if branches > _MAX_BRANCHES:
        raise PatternError(f"a pattern has at most {_MAX_BRANCHES} alternatives and optional parts")
    if _unsure_repeats(items) > _MAX_UNSURE_REPEATS:
        limit = "only one repeat may be followed by something it could match itself"
        raise PatternError(f"{limit}: write narrower classes, such as [^/]+ before a slash")
    try:
        compiled = re.compile(text, re.ASCII)
    except re.error as error:
        raise PatternError(f"not a regular expression: {error.msg}") from error
    if compiled.fullmatch("") is not None:
        raise PatternError("the pattern matches the empty text, so it is too wide")
    return compiled


def _items(text: str) -> list[_Item]:
    items: list[_Item] = []
    place = 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            raise PatternError(_refusal(text, place))
        place = found.end()
        if found["repeat"]:
            _repeat(items, found)
        else:
            kind = next(kind for kind in ("open", "close", "bar", "atom") if found[kind])
            items.append(_Item(kind, found[0], characters=_characters(found[0]) if kind == "atom" else frozenset()))
    return items


def _refusal(text: str, place: int) -> str:
    if text[place] in "^$":
        return "leave ^ and $ out: the whole value is matched always"
    if text.startswith("(?", place):
        return "lookarounds, flags and named groups are not offered"
    return f"what begins with the character {place + 1} is not offered: see the reference for what is"


def _repeat(items: list[_Item], found: re.Match[str]) -> None:
    """Put a repeat on the item before it."""
    last = items[-1] if items else None
    if last is None or last.repeat or last.kind in {"open", "bar"}:
        raise PatternError("a repeat must follow a character, a class or a group")
    if found["more"]:
        raise PatternError("possessive and lazy repeats are not offered")
    if last.kind == "close" and found["repeat"] != "?":
        raise PatternError("a group may be optional (?), but not repeated")
    low, high = int(found["low"] or 0), int(found["high"] or 0)
    if max(low, high) > _MAX_COUNT:
        raise PatternError(f"a repeat counts to {_MAX_COUNT} at most")
    last.repeat = "?" if found["repeat"] == "?" else "fixed" if found["low"] and not found["comma"] else "many"
    last.required = low > 0 or found["repeat"] == "+"


def _characters(atom: str) -> frozenset[str]:
    """Return the characters that an atom matches, out of ASCII and one that stands for all others."""
    if any(mark in atom for mark in _SET_MARKS):
        raise PatternError("-- && || ~~ are not offered in a class")
    try:
        one = re.compile(atom, re.ASCII)
    except re.error as error:
        raise PatternError(f"not a regular expression: {error.msg}") from error
    return frozenset(filter(one.fullmatch, _ALPHABET))


def _unsure_repeats(items: list[_Item]) -> int:
    """Count the repeats whose end is not settled by the character that comes next."""
    followed = pairwise([*items, None])
    return sum(item is not None and item.repeat == "many" and not _ends_before(item, after) for item, after in followed)


def _ends_before(item: _Item, after: _Item | None) -> bool:
    """Whether the repeat of ``item`` can end in one place only: at the end, or before what it does not match itself."""
    if after is None:
        return True
    return after.kind == "atom" and after.required and item.characters.isdisjoint(after.characters)
