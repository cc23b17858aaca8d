"""Reading a policy document: typed access to its nodes that collects every problem instead of stopping at the first."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from broker.core.errors import BrokerError, Code, Malformed
from broker.core.identity import is_name
from broker.core.lifetime import MAX_SECONDS, format_duration, parse_duration

Key = str | int
"""One step into a document: the name of a member, or the place in a list."""

MAX_TEXT: Final = 512
MAX_NODES: Final = 100_000
MAX_DEPTH: Final = 16
_MAX_NUMBER: Final = 2**53
_SHOWN: Final = 64


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a document: where (``keys``), why, and in which line of which file if known."""

    keys: tuple[Key, ...]
    reason: str
    line: int | None = None

    @property
    def path(self) -> str:
        """Where it is, such as ``roles.support.allow[0].scopes``; names that are no plain words are quoted."""
        return path_of(self.keys)


class PolicyError(BrokerError):
    """The document is not a policy. ``problems`` are all of them, in the order of the document where possible."""

    def __init__(self, problems: tuple[Problem, ...], source: str = "policy") -> None:
        """``source`` names the file. The text says ``FILE:LINE: path: reason``, one line for each problem."""
        self.problems = problems
        self.source = source
        super().__init__(Code.POLICY_INVALID, "\n".join(_told(problem, source) for problem in problems))

    def __str__(self) -> str:
        return self.public

    def located(self, source: str, lines: Mapping[tuple[Key, ...], int]) -> PolicyError:
        """Return the same error with the line of each problem: that of its nearest part that has one."""
        return PolicyError(
            tuple(replace(problem, line=_line(problem.keys, lines)) for problem in self.problems), source
        )


def path_of(keys: tuple[Key, ...]) -> str:
    """Return the text form of a path."""
    parts: list[str] = []
    for key in keys:
        if isinstance(key, int):
            parts.append(f"[{key}]")
        elif key and key.replace("-", "").replace("_", "").isalnum() and key.isascii():
            parts.append(f".{key}" if parts else key)
        else:
            parts.append(f"[{shown(key)}]")
    return "".join(parts) or "(the whole document)"


def shown(text: str) -> str:
    """Return text of the document for a message: in quotes, on one line, and cut if long."""
    return ascii(text if len(text) <= _SHOWN else text[:_SHOWN] + "…").replace("\\u2026", "...")


def _told(problem: Problem, source: str) -> str:
    place = source if problem.line is None else f"{source}:{problem.line}"
    return f"{place}: {problem.path}: {problem.reason}"


def _line(keys: tuple[Key, ...], lines: Mapping[tuple[Key, ...], int]) -> int | None:
    ends = (keys[:end] for end in range(len(keys), -1, -1))
    return next((lines[start] for start in ends if start in lines), None)


@dataclass(frozen=True, slots=True)
class Node:
    """One value of the document, where it stands, and where problems are collected.

    Every reader below reports what is wrong and returns None (or nothing to iterate), so that reading goes on.
    """

    value: object
    keys: tuple[Key, ...]
    problems: list[Problem]

    def fail(self, reason: str) -> None:
        """Report that this value is wrong."""
        self.problems.append(Problem(self.keys, reason))

    def child(self, key: Key, value: object) -> Node:
        """Return a part of this value."""
        return Node(value, (*self.keys, key), self.problems)

    def table(self) -> Iterator[tuple[str, Node]]:
        """Iterate over a mapping from names to values; an empty one is a problem (law 9)."""
        if not isinstance(self.value, Mapping):
            self.fail("must be a mapping")
        elif not self.value:
            self.fail("must not be empty: leave it out, or put something in")
        else:
            yield from ((key, self.child(key, value)) for key, value in self.value.items())

    def members(self, *optional: str, required: Collection[str] = ()) -> dict[str, Node]:
        """Return the members of a mapping with known names; unknown and missing ones are problems."""
        found = dict(self.table())
        known = (*required, *optional)
        for name in [name for name in found if name not in known]:
            found.pop(name).fail(f"unknown key; known here: {', '.join(known)}")
        if isinstance(self.value, Mapping) and self.value:
            for name in required:
                if name not in found:
                    self.fail(f"{name} is missing")
        return found

    def items(self) -> list[Node]:
        """Return the items of a list; an empty one is a problem (law 9)."""
        if not isinstance(self.value, list | tuple):
            self.fail("must be a list")
            return []
        if not self.value:
            self.fail("must not be empty: leave it out, or put something in")
        return [self.child(place, value) for place, value in enumerate(self.value)]

    def text(self, limit: int = MAX_TEXT) -> str | None:
        """Read text: printable, not empty, at most ``limit`` characters."""
        if not isinstance(self.value, str):
            self.fail("must be text (put it in quotes)" if isinstance(self.value, int | bool) else "must be text")
            return None
        if not 0 < len(self.value) <= limit or not self.value.isprintable() or self.value.strip() != self.value:
            self.fail(f"must be printable text of 1 to {limit} characters without spaces around it")
            return None
        return self.value

    def number(self, low: int, high: int) -> int | None:
        """Read a whole number between bounds."""
        if not isinstance(self.value, int) or isinstance(self.value, bool) or not low <= self.value <= high:
            self.fail(f"must be a whole number from {low} to {high}")
            return None
        return self.value

    def flag(self) -> bool | None:
        """Read true or false."""
        if not isinstance(self.value, bool):
            self.fail("must be true or false")
            return None
        return self.value

    def choice(self, options: Collection[str]) -> str | None:
        """Read one of some words."""
        if not isinstance(self.value, str) or self.value not in options:
            self.fail(f"must be one of: {', '.join(options)}")
            return None
        return self.value

    def duration(self, limit: int = MAX_SECONDS) -> int | None:
        """Read a duration such as ``15m``, at most ``limit`` seconds; return its seconds."""
        if not isinstance(self.value, str):
            self.fail("must be a duration such as 90s, 15m, 1h or 1h30m")
            return None
        try:
            seconds = parse_duration(self.value)
        except Malformed as error:
            self.fail(error.public.removeprefix("duration: "))
            return None
        if seconds > limit:
            self.fail(f"must be at most {format_duration(limit)}")
            return None
        return seconds

    def reference(self, known: Collection[str], what: str) -> str | None:
        """Read the name of something that the document defines elsewhere."""
        if not isinstance(self.value, str) or self.value not in known:
            name = shown(self.value) if isinstance(self.value, str) else "this"
            self.fail(f"{name} is not {what} of this policy")
            return None
        return self.value

    def names(self, what: str) -> Iterator[tuple[str, Node]]:
        """Iterate over a mapping whose keys are names; a bad name is a problem."""
        for name, node in self.table():
            if is_name(name):
                yield name, node
            else:
                node.fail(f"{what} is named with lower-case letters, digits and . _ - (at most 128)")


def plain_problems(document: object) -> list[Problem]:
    """Return what keeps a document from being plain data: mappings, lists, text, whole numbers, true and false."""
    problems: list[Problem] = []
    waiting: list[tuple[tuple[Key, ...], object]] = [((), document)]
    for count, (keys, value) in enumerate(waiting):
        if count > MAX_NODES or len(keys) > MAX_DEPTH:
            return [*problems, Problem(keys[:MAX_DEPTH], f"more than {MAX_NODES} values or {MAX_DEPTH} levels")]
        match value:
            case Mapping():
                problems += [Problem(keys, "every key must be text") for key in value if not isinstance(key, str)]
                waiting += [((*keys, str(key)), inner) for key, inner in value.items()]
            case list() | tuple():
                waiting += [((*keys, place), inner) for place, inner in enumerate(value)]
            case _ if (reason := _not_plain(value)) is not None:
                problems.append(Problem(keys, reason))
            case _:
                pass
    return problems


def _not_plain(value: object) -> str | None:
    match value:
        case str() | bool():
            return None
        case int():
            return None if abs(value) < _MAX_NUMBER else "the number is too large: put it in quotes"
        case None:
            return "has no value: leave the key out, or give it one"
        case float():
            return "a number with a fraction has no meaning here: put it in quotes if it is text"
        case _:
            return "must be text, a whole number, true, false, a list or a mapping (put dates in quotes)"
