"""Changing the text of a YAML or JSON document part by part, so that comments and layout stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from broker.core.errors import BrokerError, Code


class NotEditable(BrokerError):
    """The file is written in a way that this module does not change; the text says where."""

    def __init__(self, path: Path, line: int) -> None:
        """``line`` is the line, from 1."""
        super().__init__(Code.POLICY_INVALID, f"{path}:{line}: this cannot be edited here without changing its layout")


@dataclass(slots=True)
class LayoutEditor:
    """Collects changes of parts of a text. ``quoted`` says that it is JSON. Every method raises :class:`NotEditable`.

    The nodes that its methods take are those of ``root``.
    """

    path: Path
    text: str
    quoted: bool = field(init=False)
    root: yaml.MappingNode = field(init=False)
    _changes: list[_Change] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Find out where everything stands."""
        self.quoted = self.path.suffix == ".json"
        try:
            root = yaml.compose(self.text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:  # JSON that is no YAML: with tabs, say
            raise NotEditable(self.path, 1) from error
        if not isinstance(root, yaml.MappingNode):
            raise NotEditable(self.path, 1)
        self.root = root

    def result(self) -> str:
        """Return the text with all changes made, from its end to its start, so that no place moves.

        A block within another one can end at the same place as that: what is added to the inner one comes first.
        """
        text = self.text
        for change in sorted(self._changes, key=lambda each: (-each.start, -each.end, each.column)):
            text = text[: change.start] + change.new + text[change.end :]
        return text

    def drop_items(self, node: yaml.Node | None, places: Collection[int]) -> None:
        """Remove items of a list by their places."""
        if places and isinstance(node, yaml.SequenceNode):
            spans = [_Span(item.start_mark.index, _end(item)) for item in node.value]
            self._drop(spans, places, flow=bool(node.flow_style), start=self._dash)

    def drop_keys(self, node: yaml.MappingNode, names: Collection[str]) -> None:
        """Remove members of a mapping by their names."""
        places = {place for place, (key, _) in enumerate(node.value) if key.value in names}
        if places:
            spans = [_Span(key.start_mark.index, _end(value)) for key, value in node.value]
            self._drop(spans, places, flow=bool(node.flow_style), start=lambda at: at)

    def _drop(
        self, spans: Sequence[_Span], places: Collection[int], *, flow: bool, start: Callable[[int], int]
    ) -> None:
        """Remove some of the parts of a list or mapping: whole lines, or between brackets with one comma each."""
        for place in sorted(places):
            if flow:
                self._drop_between(spans, place, places)
            else:
                self._change(self._line_start(start(spans[place].start)), self._line_end(spans[place].end), "")

    def _drop_between(self, spans: Sequence[_Span], place: int, places: Collection[int]) -> None:
        """Remove a part between brackets with the comma behind it, or, if it is the last, with that before it."""
        span = spans[place]
        if place + 1 < len(spans):
            gap = self.text[span.end : spans[place + 1].start]
            if "#" in gap:
                self._change(span.start, span.end + self._comma(gap, span.end) + 1, "")
            else:
                self._change(span.start, spans[place + 1].start, "")
            return
        kept = [other for other in range(place) if other not in places]
        gap = self.text[spans[kept[-1]].end : spans[kept[-1] + 1].start] if kept else ""
        if not kept or "#" in gap:
            self._change(span.start, span.end, "")  # the comma before it may stay
            return
        at = spans[kept[-1]].end
        self._change(at, at + len(gap), "")
        self._change(span.start, span.end, "")

    def set_keys(self, node: yaml.MappingNode, values: Mapping[str, int | str]) -> None:
        """Give members of a mapping other values; those that are not there yet are added."""
        new = []
        for name, value in values.items():
            known = value_of(node, name)
            if known is None:
                new.append(f"{self.word(name)}: {self.word(value)}")
            else:
                self._change(known.start_mark.index, known.end_mark.index, self.word(value))
        if new:
            self.insert(node, new)

    def insert(self, node: yaml.MappingNode, members: Sequence[str]) -> None:
        """Add members to a mapping behind its last one, in the way in which it is written."""
        key, value = node.value[-1]
        end = _end(value)
        if node.flow_style:
            self._change(end, end, "".join(f", {member}" for member in members))
            return
        end = self._line_end(end)
        newline = "\r\n" if "\r\n" in self.text else "\n"
        lines = "".join(" " * key.start_mark.column + member + newline for member in members)
        added = lines if self.text[end - 1] == "\n" else newline + lines.removesuffix(newline)
        self._change(end, end, added, column=key.start_mark.column)

    def _dash(self, start: int) -> int:
        """Return where the dash before an item of a list stands."""
        before = self.text[:start].rstrip()
        if not before.endswith("-"):
            raise NotEditable(self.path, self._line_number(start))
        return len(before) - 1

    def _line_start(self, at: int) -> int:
        """Return where the line of a place starts, before which nothing else may stand in it."""
        start = self.text.rfind("\n", 0, at) + 1
        if self.text[start:at].strip():
            raise NotEditable(self.path, self._line_number(at))
        return start

    def _line_end(self, at: int) -> int:
        """Return where the line of a place ends, its line feed included."""
        if self.text[at - 1] == "\n":
            return at
        end = self.text.find("\n", at)
        return len(self.text) if end < 0 else end + 1

    def _comma(self, gap: str, at: int) -> int:
        comma = gap.find(",")
        if not 0 <= comma < gap.index("#"):
            raise NotEditable(self.path, self._line_number(at))
        return comma

    def _line_number(self, at: int) -> int:
        return self.text.count("\n", 0, at) + 1

    def word(self, value: int | str) -> str:
        """Return how a plain word or number is written."""
        return f'"{value}"' if self.quoted and isinstance(value, str) else str(value)

    def _change(self, start: int, end: int, new: str, *, column: int = 0) -> None:
        self._changes.append(_Change(start, end, new, column))


@dataclass(frozen=True, slots=True)
class _Change:
    """The text between two places becomes another one. ``column`` is how far whole lines that are added stand in."""

    start: int
    end: int
    new: str
    column: int


@dataclass(frozen=True, slots=True)
class _Span:
    """From where to where a part of the text goes."""

    start: int
    end: int


def _end(node: yaml.Node) -> int:
    """Return where the text of a node ends. A block goes on to the next word in YAML, comments included."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(node, yaml.MappingNode) else last)
    end: int = node.end_mark.index
    return end


def value_of(node: yaml.MappingNode, name: str) -> yaml.Node | None:
    """Return a member of a mapping."""
    return next((value for key, value in node.value if key.value == name), None)
