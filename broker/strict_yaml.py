"""Reading YAML and JSON as plain data, with the line of each part, and without YAML's surprises.

Refused are: duplicate keys, anchors and aliases (expansion bombs), tags, merge keys, more than one document, anything
that is not UTF-8, and every plain word that YAML reads as something other than text, a whole number, ``true`` or
``false``: dates, floats, octal and sexagesimal numbers, ``yes`` and ``on``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml

from broker.core.policy import PolicyError, Problem
from broker.core.policy.document import MAX_DEPTH, Key, shown

MAX_BYTES: Final = 1024 * 1024
"""The largest document that is read."""

Plain = str | int | float | bool | None | list["Plain"] | dict[str, "Plain"]
"""What a document is made of. Floats (JSON only) and None are left for the document's own rules to refuse."""

_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,18})")
_resolver: Final = yaml.resolver.Resolver()
_Loader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document as plain data; ``lines`` says in which line (from 1) a part of it begins."""

    value: Plain
    lines: dict[tuple[Key, ...], int]


def read_document(path: Path) -> Parsed:
    """Read a YAML document, or a JSON one if the file is named ``.json``.

    Raises :class:`PolicyError` with every problem found.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _failure(path, f"cannot be read: {error.strerror or type(error).__name__}") from error
    if len(data) > MAX_BYTES:
        raise _failure(path, f"is larger than {MAX_BYTES} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _failure(path, "is not UTF-8", line) from error
    return parse_document(path, text)


def parse_document(path: Path, text: str) -> Parsed:
    """Read the text of a document as :func:`read_document` does; ``path`` says what it is, and is named in problems."""
    return _parse_json(path, text) if path.suffix == ".json" else _parse_yaml(path, text)


def _failure(path: Path, reason: str, line: int | None = None) -> PolicyError:
    return PolicyError((Problem((), reason, line),), str(path))


def _parse_json(path: Path, text: str) -> Parsed:
    def unique(pairs: list[tuple[str, Plain]]) -> dict[str, Plain]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the key {shown(twice)} is there twice in one object")
        return found

    try:
        return Parsed(json.loads(text, object_pairs_hook=unique), {})
    except json.JSONDecodeError as error:
        raise _failure(path, f"not JSON: {error.msg}", error.lineno) from error
    except RecursionError as error:
        raise _failure(path, f"is nested deeper than {MAX_DEPTH} levels") from error
    except ValueError as error:
        raise _failure(path, str(error)) from error


def _parse_yaml(path: Path, text: str) -> Parsed:
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=_Loader):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        line = None if error.problem_mark is None else error.problem_mark.line + 1
        raise _failure(path, f"not YAML: {error.problem or error.context}", line) from error
    except yaml.YAMLError as error:
        raise _failure(path, "not YAML: a character that YAML does not allow") from error
    except _Stop as stop:
        raise PolicyError(tuple(builder.problems), str(path)) from stop
    if builder.problems:
        raise PolicyError(tuple(builder.problems), str(path))
    return Parsed(builder.root, builder.lines)


class _Stop(Exception):
    """Reading on makes no sense; the problem is told already."""


@dataclass(slots=True)
class _Open:
    """A list or mapping that is being read; ``key`` is the member that comes next."""

    keys: tuple[Key, ...]
    value: list[Plain] | dict[str, Plain]
    key: str | None = None


@dataclass(slots=True)
class _Builder:
    """Builds plain data from the events of a YAML parser. Its depth is bounded, and nothing in it recurses."""

    root: Plain = None
    lines: dict[tuple[Key, ...], int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    _stack: list[_Open] = field(default_factory=list)
    _documents: int = 0

    def take(self, event: yaml.Event) -> None:
        """Take the next event."""
        line = 0 if event.start_mark is None else event.start_mark.line + 1
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    self._stop((), "there must be one document only", line)
            case yaml.AliasEvent():
                self._stop(self._here(), "anchors and aliases are not offered: write the value out", line)
            case yaml.ScalarEvent() | yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                if event.anchor is not None:
                    self._stop(self._here(), "anchors and aliases are not offered: write the value out", line)
                if event.tag is not None:
                    self._stop(self._here(), "tags are not offered", line)
                self._value(event, line)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._stack.pop()
            case _:
                pass

    def _value(self, event: yaml.Event, line: int) -> None:
        top = self._stack[-1] if self._stack else None
        if top is not None and isinstance(top.value, dict) and top.key is None:
            self._take_key(top, event, line)
            return
        keys = self._here()
        self.lines.setdefault(keys, line)
        if isinstance(event, yaml.ScalarEvent):
            self._place(self._scalar(event, keys, line))
            return
        if len(keys) >= MAX_DEPTH:
            self._stop(keys, f"is nested deeper than {MAX_DEPTH} levels", line)
        value: list[Plain] | dict[str, Plain] = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._place(value)
        self._stack.append(_Open(keys, value))

    def _take_key(self, top: _Open, event: yaml.Event, line: int) -> None:
        if not isinstance(event, yaml.ScalarEvent):
            self._stop(top.keys, "a key must be text", line)
            return
        key, known = event.value, top.value
        keys = (*top.keys, key)
        if self._scalar(event, keys, line) is not key:
            self._tell(keys, "a key must be text: put it in quotes", line)
        if isinstance(known, dict) and key in known:
            self._tell(keys, f"is there twice, first in line {self.lines[keys]}", line)
        self.lines[keys] = line
        top.key = key

    def _place(self, value: Plain) -> None:
        """Put a value where the reading has come to."""
        if not self._stack:
            self.root = value
            return
        top = self._stack[-1]
        if isinstance(top.value, list):
            top.value.append(value)
        elif top.key is not None:
            top.value[top.key] = value
            top.key = None

    def _here(self) -> tuple[Key, ...]:
        if not self._stack:
            return ()
        top = self._stack[-1]
        if isinstance(top.value, list):
            return (*top.keys, len(top.value))
        return top.keys if top.key is None else (*top.keys, top.key)

    def _scalar(self, event: yaml.ScalarEvent, keys: tuple[Key, ...], line: int) -> Plain:
        """Return what a scalar means; what YAML would read in a surprising way is a problem."""
        text: str = event.value
        if not event.implicit[0]:  # in quotes, or a block of text
            return text
        match _kind(text):
            case "str":
                return text
            case "null":
                return None
            case "bool" if text in {"true", "false"}:
                return text == "true"
            case "int" if _NUMBER.fullmatch(text):
                return int(text)
            case kind:
                self._tell(keys, f"YAML reads {shown(text)} as {_KINDS.get(kind, kind)}: put text in quotes", line)
                return text

    def _tell(self, keys: tuple[Key, ...], reason: str, line: int) -> None:
        self.problems.append(Problem(keys, reason, line))

    def _stop(self, keys: tuple[Key, ...], reason: str, line: int) -> None:
        self._tell(keys, reason, line)
        raise _Stop


def _kind(word: str) -> str:
    """Return what YAML 1.1 takes a plain word for, such as ``str`` or ``timestamp``."""
    tag: str = _resolver.resolve(yaml.ScalarNode, word, (True, False))  # type: ignore[no-untyped-call]
    return tag.rpartition(":")[2]


_KINDS: Final = {
    "bool": "true or false",
    "int": "a number that is not written in plain decimal",
    "float": "a number with a fraction",
    "timestamp": "a date",
    "merge": "a merge of mappings",
    "value": "a default value",
}
