"""Revocations under load on everybody: until the call is answered, and until the last verifier refuses."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from rich.table import Table

from tests.chaos.cutting_off import cut_off
from tests.chaos.ground import Ground
from tests.chaos.measures import Took, quantiles, times
from tests.chaos.replicas import STALENESS, Replicas
from tests.chaos.run import Plan, Run
from tests.chaos.verifying import WITHIN

CLIENTS: Final = ("client-1", "client-2", "client-3")
REPLICAS: Final = 3
VERIFIERS: Final = 40
REVOCATIONS: Final = 100

PAUSE: Final = 0.1
"""Seconds between two rounds of a verifier or client: more would measure how so many processes share a machine."""


def measure(folder: Path, table: Table, _many: int) -> None:
    """Add the rows about revocations that each hit something in use: of one broker, and of replicas on PostgreSQL."""
    plan = Plan(verifiers=VERIFIERS, pause=PAUSE, every=0.3, seconds=600, revocations=REVOCATIONS)
    grounds = {
        "1 broker": Ground(folder / "one", CLIENTS),
        f"{REPLICAS} replicas": Replicas(folder / "replicas", CLIENTS, replicas=REPLICAS),
    }
    for brokers, ground in grounds.items():
        ground.prepare()
        took = judged(ground, plan)
        title = f"{len(took)} revocations, {brokers}, {VERIFIERS} verifiers"
        for what, seconds in (
            ("to the answer", [one.answered for one in took]),
            ("to the last acceptance", [one.accepted for one in took]),
            ("to the last first refusal", refusals(took)),
        ):
            table.add_row(f"{title}: {what}", quantiles(seconds), "", "p50 / p99 / max")
        applied, places = sum(one.applied for one in took), sum(one.places for one in took) / len(took)
        table.add_row(f"{title}: said applied", f"{applied}", "", f"no acceptance after it, {places:.1f} places each")


def measure_cut_off(folder: Path, table: Table, _many: int) -> None:
    """Add the rows about a replica and a verifier that hear nothing, and the call that revokes meanwhile."""
    story = cut_off(folder / "cut-off")
    table.add_row(
        "a revocation, one of two replicas and verifiers cut off: to applied", _ms(story.took), "", "the call"
    )
    for by, code, bound in (("replica-2", "rules_stale", STALENESS), ("verifier-2", "view_stale", WITHIN)):
        figure = f"{_ms(story.accepted(by))}, {_ms(story.refused(by, code))}"
        table.add_row(f"{by} is cut off: last acceptance, first refusal", figure, "", f"at most {bound:g} s, {code}")


def judged(ground: Ground, plan: Plan) -> list[Took]:
    """Run a plan, and return what it took. Raises ``Refuted``."""
    asyncio.run(Run(ground, plan).run())
    return times(ground.place().journals)


def refusals(took: list[Took]) -> list[float]:
    """Return the seconds until the last place refused, of those revocations of which they are known."""
    return [one.refused for one in took if one.refused is not None]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"
