"""Verifying a ledger: entries a second, in one process and in two, and what hashing and decoding alone take."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.table import Table

from broker.clock import SystemClock
from broker.core.entry import decode
from broker.core.merkle import leaf_hash
from broker.ledger import SqlLedger
from broker.ledger.reading import offline, records
from broker.ledger.rows import MAX_PAGE
from broker.ledger.verify import verify_file
from tests.bench.seed import seed

ROUNDS = 3
ALONE = 50


def measure(folder: Path, table: Table, many: int) -> None:
    """Add the rows about verifying."""
    path = folder / "ledger.db"
    SqlLedger.create(path, SystemClock().now())
    asyncio.run(seed(path, many))
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for processes, seconds in times.items():
            seconds.append(_timed(partial(_verify, path, processes)))
    one = statistics.median(times[1])
    for processes, seconds in times.items():
        figure = f"{many / statistics.median(seconds):,.0f} entries/s ({min(seconds):.1f} to {max(seconds):.1f} s)"
        title = f"{many:,} entries verified, processes: {processes}"
        table.add_row(title, figure, f"{one / statistics.median(seconds):.2f}", "speed of one process")
    _alone(path, table, many / one)


def _verify(path: Path, processes: int) -> None:
    report = verify_file(path, processes=processes)
    if not report.sound:
        raise RuntimeError(report.problems)


def _alone(path: Path, table: Table, whole: float) -> None:
    """Hash, and hash with decoding and encoding, entries that are in memory already."""
    found = offline.read_file(path, lambda connection: records.records(connection, -1, MAX_PAGE))
    bodies = [record.body for record in found]
    both = {"hashed": (leaf_hash,), "hashed, decoded and found canonical": (leaf_hash, decode)}
    for what, work in both.items():
        title = f"entries {what}, in memory"
        seconds = min(_timed(partial(_each, work, bodies)) for _ in range(ALONE))
        rate = len(bodies) / seconds
        table.add_row(title, f"{rate:,.0f}/s", f"{rate / whole:.1f}", "verifying in one process")


def _each(work: Sequence[Callable[[bytes], object]], bodies: Sequence[bytes]) -> None:
    for step in work:
        for body in bodies:
            step(body)


def _timed(work: Callable[[], object]) -> float:
    before = time.perf_counter()
    work()
    return time.perf_counter() - before
