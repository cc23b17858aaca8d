"""Which entries of a ledger can be trusted after it was verified, as ranges that together cover all of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Final

MAX_RANGES: Final = 10_000
"""How many separate ranges are told apart; beyond that, the last one grows: more is distrusted than need be."""


class Trust(StrEnum):
    """How far an entry can be trusted, the best first."""

    VOUCHED = "vouched"
    """It is what a checkpoint says that was kept elsewhere, or whose signature was verified."""
    UNVOUCHED = "unvouched"
    """It fits all others, but no such checkpoint covers it: whoever can write the ledger could have made it."""
    ARCHIVED = "archived"
    """It was moved to an archive that was not looked at; its place in the tree is known."""
    DOUBTFUL = "doubtful"
    """A checkpoint contradicts the entries up to here, so that any of them may have been changed."""
    CHANGED = "changed"
    """It is not what was recorded."""
    MISSING = "missing"
    """It was recorded, and is not there."""


@dataclass(frozen=True, slots=True)
class Span:
    """Entries ``first`` up to, but not including, ``end``, and how far they can be trusted."""

    first: int
    end: int
    trust: Trust

    def __str__(self) -> str:
        """Name the entries in words."""
        return f"entry {self.first:,}" if self.end == self.first + 1 else f"entries {self.first:,} to {self.end - 1:,}"


@dataclass(slots=True)
class Ranges:
    """Ranges of entries that have something in common, taken up in their order; few of them, however many entries."""

    _ranges: list[tuple[int, int]] = field(default_factory=list)

    def add(self, first: int, end: int) -> None:
        """Take up the entries from ``first`` up to ``end``."""
        ranges = self._ranges
        if ranges and (ranges[-1][0] <= first <= ranges[-1][1] or len(ranges) == MAX_RANGES):
            ranges[-1] = (min(ranges[-1][0], first), max(ranges[-1][1], end))
        else:
            ranges.append((first, end))

    def spans(self, trust: Trust) -> Iterator[Span]:
        """Yield them as spans."""
        yield from (Span(first, end, trust) for first, end in self._ranges)


def cover(size: int, vouched: int, found: Iterable[Span], *, contradicted: bool) -> Sequence[Span]:
    """Return spans that cover all entries, in their order, without overlap.

    The first ``vouched`` of ``size`` entries are covered by a checkpoint; ``contradicted`` says that a checkpoint of
    more than these differs. What was ``found`` of single entries counts for them alone, the worst if it is several
    things; it may reach beyond ``size``.
    """
    rest = Trust.DOUBTFUL if contradicted else Trust.UNVOUCHED
    layers = [Span(0, min(vouched, size), Trust.VOUCHED), Span(vouched, size, rest), *found]
    layers = [span for span in layers if span.first < span.end]
    order = list(Trust)
    covered: list[Span] = []
    for first, end, living in _slices(layers):
        worst = max((span.trust for span in living), key=order.index)
        if covered and covered[-1].end == first and covered[-1].trust is worst:
            covered[-1] = Span(covered[-1].first, end, worst)
        else:
            covered.append(Span(first, end, worst))
    return covered


def _slices(spans: Sequence[Span]) -> Iterator[tuple[int, int, Sequence[Span]]]:
    """Cut where any span begins or ends; yield each slice with the spans that hold it."""
    cuts = sorted({cut for span in spans for cut in (span.first, span.end)})
    waiting = sorted(spans, key=lambda span: span.first, reverse=True)
    living: list[Span] = []
    for first, end in pairwise(cuts):
        living = [span for span in living if span.end > first]
        while waiting and waiting[-1].first <= first:
            living.append(waiting.pop())
        if living:
            yield first, end, living
