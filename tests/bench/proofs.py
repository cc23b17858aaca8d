"""Proofs: how long a receipt takes at a thousand and at a million entries, and what the nodes add to a commit."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from http.client import HTTPConnection
from pathlib import Path
from unittest.mock import patch

from rich.table import Table

from broker.ledger import SqlLedger
from broker.ledger.databases import sqlite
from tests.bench.fill import fill
from tests.bench.seed import seed
from tests.support.running_broker import RunningBroker

FEW = 1_000
RECEIPTS = 500
ROUNDS = 5
COMMITS = 16_384


def measure(folder: Path, table: Table, many: int) -> None:
    """Add the rows about proofs."""
    medians: dict[int, float] = {}
    for count in (FEW, many):
        times = _receipts(folder / str(count), count)
        medians[count] = statistics.median(times)
        figure = f"{medians[count]:.2f} ms ({min(times):.2f} to {max(times):.2f}), p99 {_p99(times):.2f} ms"
        ratio = f"{medians[count] / medians[FEW]:.2f}"
        table.add_row(f"a receipt over HTTP, {count:,} entries", figure, ratio, f"{FEW:,} entries")
    _nodes(folder, table)


def _receipts(folder: Path, count: int) -> list[float]:
    """Return how many milliseconds receipts of entries here and there take, one after the other."""
    folder.mkdir()
    broker = RunningBroker(folder)
    broker.initialise()
    fill(broker.ledger, count)
    broker.start()
    try:
        answer = broker.ask(
            "token", "--agent", "operator", "--key", str(broker.home / "operator.pem"),
            "--audience", f"{broker.issuer}/v1", "--scope", "ledger:read",
        )  # fmt: skip
        headers = {"Authorization": f"Bearer {answer['access_token']}"}
        choice, connection = random.Random(1), HTTPConnection("127.0.0.1", broker.port)
        return [_receipt(connection, choice.randrange(count), headers) for _ in range(RECEIPTS)]
    finally:
        broker.stop()


def _receipt(connection: HTTPConnection, seq: int, headers: dict[str, str]) -> float:
    before = time.perf_counter()
    connection.request("GET", f"/v1/ledger/receipt/{seq}", headers=headers)
    answer = connection.getresponse()
    text = answer.read()
    elapsed = (time.perf_counter() - before) * 1000
    if answer.status != 200 or b"tlog-proof" not in text:
        raise RuntimeError(text)
    return elapsed


def _nodes(folder: Path, table: Table) -> None:
    """Commit as issuing does, in turn with a ledger that leaves the nodes out."""
    with_nodes: list[float] = []
    without: list[float] = []
    for turn in range(ROUNDS):
        with_nodes.append(_commits(folder / f"with-{turn}.db"))
        with patch.object(sqlite, "insert_nodes", lambda *_: None):
            without.append(_commits(folder / f"without-{turn}.db"))
    figure = f"{_rate(with_nodes)} against {_rate(without)}"
    ratio = f"{statistics.median(with_nodes) / statistics.median(without):.3f}"
    table.add_row(f"{COMMITS:,} entries committed, with the tree's nodes", figure, ratio, "time without the nodes")


def _commits(path: Path) -> float:
    SqlLedger.create(path, time.time())
    before = time.perf_counter()
    asyncio.run(seed(path, COMMITS))
    return time.perf_counter() - before


def _rate(times: list[float]) -> str:
    return f"{COMMITS / statistics.median(times):,.0f}/s"


def _p99(times: list[float]) -> float:
    return sorted(times)[len(times) * 99 // 100]
