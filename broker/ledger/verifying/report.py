"""What verifying found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from broker.core.trust import Span

MAX_PROBLEMS: Final = 100
"""How many problems are reported in words; all are counted."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. ``problems`` are in plain words, without any content of entries; none means sound.

    ``size``, ``root`` and ``epoch`` are computed from the entries, not read from the head; there is no root if entries
    are missing that it needs. ``entries`` is how many were checked; the first ``archived`` ones were not: they were
    removed on record, lastly by the entry ``removed_at``, and what only they told of other tables was not compared.
    ``signatures`` is how many checkpoints' signatures were verified. ``spans`` say how far which entries can be
    trusted; ``voucher`` is the largest checkpoint that vouches for any.
    """

    ledger: str | None
    size: int
    entries: int
    root: bytes | None
    epoch: int
    checkpoints: int
    signatures: int
    problem_count: int
    problems: tuple[str, ...]
    archived: int
    removed_at: int | None
    spans: Sequence[Span]
    voucher: str | None

    @property
    def sound(self) -> bool:
        """Whether nothing at all was wrong."""
        return self.problem_count == 0


@dataclass(frozen=True, slots=True)
class Contradiction:
    """What ``says`` knows does not fit. ``accepted_by`` is the rule by which an operator accepted that, if any."""

    says: str
    text: str
    accepted_by: int | None

    def told(self) -> str:
        """Return what an auditor is told, who must also hear of what an operator accepted."""
        rule = self.accepted_by
        accepted = "" if rule is None else f"; rule {rule} accepted that as lost, when an older ledger was restored"
        return self.text + accepted


@dataclass(slots=True)
class Found:
    """The problems so far, in plain words, without any content of entries."""

    count: int = 0
    texts: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Count a problem, and keep its text if there is room."""
        self.count += 1
        if len(self.texts) < MAX_PROBLEMS:
            self.texts.append(text)

    def add_all(self, texts: Iterable[str]) -> None:
        """Add one after the other."""
        for text in texts:
            self.add(text)
