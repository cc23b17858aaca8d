"""How long revoking took, out of the journals of a run."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.chaos.journal import SUFFIX

BEFORE: Final = 1.0
"""Whoever accepted a token so many seconds before it was revoked is one of those that have to hear of it."""


@dataclass(frozen=True, slots=True)
class Took:
    """One revocation, in seconds from the call: to the answer, to the last acceptance, and to the last first refusal.

    What happened in between, at the latest of ``places`` places, no client saw. ``applied`` is whether the answer said
    so; ``accepted`` is 0 if nobody accepted after the call; ``refused`` is None if a place that had accepted what it
    kills was not seen to judge it again.
    """

    answered: float
    applied: bool
    accepted: float
    refused: float | None
    places: int


@dataclass(slots=True)
class Judged:
    """When one place accepted and refused one token, each in order."""

    accepted: list[float]
    refused: list[float]


def times(journals: Path) -> list[Took]:
    """Return what each acknowledged revocation took, the first one first."""
    lines = [json.loads(line) for path in journals.glob(f"*{SUFFIX}") for line in path.read_text().splitlines()]
    judged: defaultdict[str, dict[str, Judged]] = defaultdict(dict)
    for line in sorted(
        (line for line in lines if line["what"] in ("accepted", "refused")), key=lambda one: one["began"]
    ):
        place = judged[line["token"]].setdefault(line["by"], Judged([], []))
        (place.accepted if line["what"] == "accepted" else place.refused).append(line["began"])
    calls = sorted(
        (line for line in lines if line["what"] == "revoked" and line["durable"]), key=lambda one: one["began"]
    )
    return [_took(call, judged) for call in calls]


def _took(call: dict[str, Any], judged: dict[str, dict[str, Judged]]) -> Took:
    """Look at the token that the call was about, whatever else its rule kills."""
    began = call["began"]
    firsts, last = [], began
    for place in judged.get(call["token"], {}).values():
        at = bisect_left(place.accepted, began)
        if at and place.accepted[at - 1] > began - BEFORE:
            firsts.append(next((moment - began for moment in place.refused if moment > began), None))
        last = max([last, *place.accepted[at:]])
    known = [first for first in firsts if first is not None]
    slowest = max(known) if known and len(known) == len(firsts) else None
    return Took(call["ended"] - began, call["applied"], last - began, slowest, len(firsts))


def quantiles(values: Iterable[float]) -> str:
    """Return p50, p99 and the largest of times in seconds, as text in milliseconds."""
    ordered = sorted(values)
    if not ordered:
        return "-"
    chosen = [ordered[-(-len(ordered) * percent // 100) - 1] for percent in (50, 99, 100)]
    return " / ".join(f"{value * 1000:,.0f}" for value in chosen) + " ms"
