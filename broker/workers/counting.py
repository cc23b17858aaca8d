"""The metrics of all workers as one: what a worker has counted stays counted when another takes its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import add
from typing import Final

import msgspec

from broker.metrics import Across, Family, Sample

_BEGUN: Final = "_created"
"""The ending of samples that say since when something is counted."""

_COMBINED: Final[Mapping[Across, Callable[[float, float], float]]] = {
    Across.SUM: add,
    Across.MOST: max,
    Across.LEAST: min,
}

_Key = tuple[str, tuple[tuple[str, str], ...]]


class Counting:
    """Knows what each worker counted last, and what those came to that have ended."""

    def __init__(self) -> None:
        """Nothing was counted."""
        self._latest: dict[int, Sequence[Family]] = {}
        self._ended: Sequence[Family] = ()
        self._ends = 0

    def counted(self, worker: int, families: Sequence[Family]) -> None:
        """Remember what a worker has counted since it began."""
        self._latest[worker] = families

    def ended(self, worker: int) -> None:
        """Keep what a worker has counted; what it *was like* is of no interest any more."""
        self._ends += 1
        counts = [family for family in self._latest.pop(worker, ()) if family.across is Across.SUM and _counts(family)]
        self._ended = combined([self._ended, counts])

    def total(self) -> Sequence[Family]:
        """Return what all of them come to, and how many there are and were."""
        return combined([self._own(), self._ended, *self._latest.values()])

    def _own(self) -> Sequence[Family]:
        living, ends = float(len(self._latest)), float(self._ends)
        return (
            _one("broker_workers", "Workers that serve.", "gauge", Sample("broker_workers", (), living)),
            _one(
                "broker_workers_ended",
                "Workers that have ended, whatever the reason.",
                "counter",
                Sample("broker_workers_ended_total", (), ends),
            ),
        )


def combined(parts: Iterable[Sequence[Family]]) -> Sequence[Family]:
    """Return what the families of several processes come to, in the order in which they first appear."""
    families: dict[str, Family] = {}
    for part in parts:
        for family in part:
            before = families.get(family.name)
            families[family.name] = family if before is None else _both(before, family)
    return tuple(families.values())


def _both(one: Family, other: Family) -> Family:
    samples: dict[_Key, Sample] = {(sample.name, sample.labels): sample for sample in one.samples}
    for sample in other.samples:
        key = (sample.name, sample.labels)
        before = samples.get(key)
        if before is not None:
            across = Across.LEAST if sample.name.endswith(_BEGUN) else one.across
            sample = Sample(sample.name, sample.labels, _COMBINED[across](before.value, sample.value))  # noqa: PLW2901
        samples[key] = sample
    return msgspec.structs.replace(one, samples=_ordered(samples.values()))


def _ordered(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """Keep the samples of one set of labels together, as the text format wants those of a histogram."""
    groups: dict[tuple[tuple[str, str], ...], list[Sample]] = {}
    for sample in samples:
        own = tuple(label for label in sample.labels if label[0] != "le")
        groups.setdefault(own, []).append(sample)
    return tuple(sample for group in groups.values() for sample in group)


def _one(name: str, meaning: str, kind: str, sample: Sample) -> Family:
    return Family(name, meaning, kind, Across.SUM, (sample,))


def _counts(family: Family) -> bool:
    """Whether a family counts what has happened: a summed gauge ends with the process that it is about."""
    return family.kind != "gauge"
