"""One course through entries, from one source after the other, in the order of their places."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final

from broker.core.entry import Kind
from broker.core.tree_head import KnownHead
from broker.core.trust import Ranges, Span, Trust, cover
from broker.ledger.verifying.checking import Checked, checked
from broker.ledger.verifying.derived import Derived
from broker.ledger.verifying.derived_personal import DerivedPersonal
from broker.ledger.verifying.report import Contradiction, Found
from broker.ledger.verifying.stored import Source
from broker.ledger.verifying.tree import Claim, Judgement, Tree

Progress = Callable[[int, float], None]
"""Told how many entries were checked, and what share of the source that is, from 0 to 1."""

_REMEMBERED: Final = 8192
"""How many of the last leaves are kept, to recognise entries that an export wrote again after a crash."""


class Course:
    """Feeds entries, once they were checked alone, to the tree and to the derived state."""

    def __init__(self, tree: Tree, found: Found, pool: Executor | None = None) -> None:
        """``found`` takes up the problems, in words; entries are checked alone in ``pool``, if there is one."""
        self.tree = tree
        self.derived = Derived()
        self.personal = DerivedPersonal()
        self.entries = 0
        self._found = found
        self._pool = pool
        self._changed = Ranges()
        self._recent: deque[bytes] = deque(maxlen=_REMEMBERED)
        self.removed_at: int | None = None
        self._removed = 0
        self._promised: list[tuple[int, int]] = []
        self._ahead: tuple[int, list[bytes]] | None = None

    def follow(
        self, source: Source, progress: Progress | None = None, *, promised: tuple[int, int] | None = None
    ) -> None:
        """Go through a source to its end. Raises ``Unavailable`` if it cannot be read at all.

        The entries that it ``promised``, from one place up to another, are missing if they do not come.
        """
        self._promised += [] if promised is None else [promised]
        for piece in checked(source.pieces(), self._pool):
            self.take(piece)
            if progress is not None:
                progress(self.entries, piece.share)

    def take(self, piece: Checked) -> None:
        """Take up entries that were checked alone."""
        for problem in piece.problems:
            self._found.add(problem.text)
            if problem.changed and problem.seq >= 0:
                self._changed.add(problem.seq, problem.seq + 1)
        for first, leaves in piece.runs:
            self._place(first, leaves)
        for seq in piece.gone:
            self.personal.miss(seq)
        for seq, members in piece.told:
            self.hear(seq, members)

    def hear(self, seq: int, members: Mapping[str, Any]) -> None:
        """Take up what an entry tells of others, and of what the tables must hold."""
        self.derived.take(seq, members)
        self.personal.take(seq, members)
        self._take_record(seq, members)

    def finish(self, accepted: Mapping[KnownHead, int] = MappingProxyType({})) -> Sequence[Contradiction]:
        """Say what is missing, and which claims do not hold; return those of them that were kept elsewhere.

        ``accepted`` are the heads of which an operator accepted that they do not fit, with the rule that says so.
        """
        if self._ahead is not None:
            self._take(*self._ahead)
        self.tree.finish()
        contradictions = []
        for span in self._missing(Trust.MISSING):
            self._found.add(f"{span} {'is' if span.end == span.first + 1 else 'are'} missing")
        for claim, judgement in self.tree.judged:
            if claim.size <= self.archived and judgement is Judgement.UNKNOWN:
                continue
            if (text := _objection(claim, judgement, self.tree.size)) is None:
                continue
            if claim.elsewhere:
                rule = accepted.get(KnownHead(claim.size, claim.root))
                contradictions.append(Contradiction(claim.says, text, rule))
            else:
                self._found.add(text)
        return contradictions

    def voucher(self) -> Claim | None:
        """Return the largest claim that vouches for entries here."""
        return max(self._vouching(), key=lambda claim: claim.size, default=None)

    @property
    def archived(self) -> int:
        """How many of the first entries are not here because they were archived, on record."""
        return max((span.end for span in self._missing(Trust.ARCHIVED)), default=0)

    def spans(self) -> Sequence[Span]:
        """Return how far which entries can be trusted."""
        voucher = self.voucher()
        vouched = 0 if voucher is None else voucher.size
        differing = [claim for claim, judged in self.tree.judged if judged is Judgement.DIFFERS]
        contradicted = any(claim.size > vouched for claim in differing)
        return cover(self.tree.size, vouched, self._single(), contradicted=contradicted)

    def _single(self) -> Iterator[Span]:
        """Yield what was found of single entries and tiles."""
        yield from self._changed.spans(Trust.CHANGED)
        if any(judged is Judgement.HOLDS_FOR_TILES for _, judged in self.tree.judged):
            yield from self.tree.changed_tiles.spans(Trust.CHANGED)
        yield from self._missing(Trust.ARCHIVED)
        yield from self._missing(Trust.MISSING)
        beyond = [claim.size for claim, judged in self.tree.judged if judged is Judgement.BEYOND and claim.vouches]
        yield Span(self.tree.size, max(beyond, default=0), Trust.MISSING)

    def _missing(self, trust: Trust) -> Iterator[Span]:
        """Yield the entries that are not here: those that are in archives which nobody gave, or the others."""
        archived = max(self._removed, self.tree.before.size)
        edges = {archived, *(edge for promised in self._promised for edge in promised)}
        for span in (Span(0, self.tree.before.size, trust), *self.tree.missing.spans(trust)):
            cuts = sorted({span.first, span.end, *(edge for edge in edges if span.first < edge < span.end)})
            for first, end in pairwise(cuts):
                promised = any(start <= first < stop for start, stop in self._promised)
                if (end <= archived and not promised) == (trust is Trust.ARCHIVED):
                    yield Span(first, end, trust)

    def _vouching(self) -> Iterator[Claim]:
        for claim, judged in self.tree.judged:
            if claim.vouches and judged in {Judgement.HOLDS, Judgement.HOLDS_FOR_TILES}:
                yield claim

    def _take_record(self, seq: int, members: Mapping[str, Any]) -> None:
        """Take up that entries were archived; a record can only be of entries before itself."""
        end = members.get("end")
        if members["kind"] == Kind.LEDGER_ARCHIVED and type(end) is int and self._removed < end <= seq:
            self._removed, self.removed_at = end, seq

    def _place(self, first: int, leaves: list[bytes]) -> None:
        """Hold back a run behind a gap until the next one tells whether there is a gap, or the run is misplaced."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and first < ahead[0]:
            self._found.add(f"{Span(ahead[0], ahead[0] + len(ahead[1]), Trust.MISSING)}: out of place")
        elif ahead is not None:
            self._take(*ahead)
        if first > self.tree.size:
            self._ahead = first, leaves
        else:
            self._take(first, leaves)

    def _take(self, first: int, leaves: list[bytes]) -> None:
        """Give the tree what is new of a run of leaves; what came before must be the same as it was then."""
        repeated = max(0, self.tree.size - first)
        if repeated:
            self._compare(first, leaves[:repeated])
            first, leaves = first + repeated, leaves[repeated:]
        if leaves:
            self.tree.take(first, leaves)
            self.entries += len(leaves)
            self._recent.extend(leaves[-_REMEMBERED:])

    def _compare(self, first: int, leaves: Sequence[bytes]) -> None:
        oldest = self.tree.size - len(self._recent)
        for seq, leaf in enumerate(leaves, start=first):
            if seq < oldest:
                self._found.add(f"entry {seq} is out of place")
            elif self._recent[seq - oldest] != leaf:
                self._found.add(f"entry {seq} is there more than once, and differs")


def _objection(claim: Claim, judgement: Judgement, size: int) -> str | None:
    match judgement:
        case Judgement.HOLDS | Judgement.HOLDS_FOR_TILES:
            return None
        case Judgement.DIFFERS:
            return f"{claim.says} has another root than the entries have"
        case Judgement.UNKNOWN:
            return f"{claim.says} cannot be compared: entries that it covers are missing" if claim.vouches else None
        case Judgement.BEYOND:
            return f"{claim.says} is of more entries than there are ({size})"
