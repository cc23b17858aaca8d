"""How fast a rule reaches 1,000 who follow the feed, a tenth of whom read nothing, and what they cost the broker."""

from __future__ import annotations

import json
import queue
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.bench.anchors import processor_seconds
from tests.bench.stage import Stage

FOLLOWERS, SLOW = 1000, 100
RULES, STORM = 150, 1000
SECONDS = 4.0
PAUSE = 0.05
PATIENCE = 60.0


def measure(folder: Path, table: Table, _many: int) -> None:
    """Idle, revoke and issue, with those who follow and without."""
    stage = Stage(folder)
    try:
        stage.start()
        token, memory = stage.operator_token(), _memory(stage)
        with _crowd(stage, token) as told:
            table.add_row(f"{FOLLOWERS:,} follow the feed, {SLOW} of them read nothing:", "", "", "")
            table.add_row("processor time of heartbeats", f"{_idle(stage):.1%} of one core", "", "")
            table.add_row("memory", f"{_memory(stage) - memory:.0f} MiB", "", "")
            _latencies(table, [_revoke(stage, token, told) for _ in range(RULES)])
        _compare(stage, token, table)
    finally:
        stage.stop()


def _compare(stage: Stage, token: str, table: Table) -> None:
    """Issue, and make many rules, in turn without followers and with them; rules last, for their hits are counted."""
    alone = stage.load(stage.federated(), seconds=SECONDS).per_second
    with _crowd(stage, token):
        followed = stage.load(stage.federated(), seconds=SECONDS).per_second
    table.add_row("tokens issued, durable", f"{followed:,.0f}/s", f"{followed / alone:.2f}", "without followers")
    alone = _storm(stage, token)
    with _crowd(stage, token) as told:
        followed = _storm(stage, token)
        ended = time.monotonic()
        heard = [told.get(timeout=PATIENCE) for _ in range(STORM)][-1]
    later = f"{max(0.0, heard['last'] - ended) * 1000:.0f} ms after the load ended; {heard['lost']} were sent away"
    ratio = f"{followed / alone:.2f}"
    table.add_row(f"{STORM:,} rules at 32 connections", f"{followed:,.0f}/s", ratio, "without followers")
    table.add_row("the last of these rules was heard", later, "", "")


@contextmanager
def _crowd(stage: Stage, token: str) -> Iterator[queue.Queue[dict[str, Any]]]:
    """Have many follow; yields what they report."""
    command = [sys.executable, "-m", "tests.bench.followers", str(stage.broker.port), token, str(FOLLOWERS), str(SLOW)]
    crowd: subprocess.Popen[str] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        told: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=_collect, args=(crowd.stdout or (), told), daemon=True).start()
        told.get(timeout=PATIENCE)
        yield told
    finally:
        crowd.terminate()
        crowd.wait()


def _collect(lines: Iterable[str], told: queue.Queue[dict[str, Any]]) -> None:
    """Take what is reported as it comes, so that nobody waits to report."""
    for line in lines:
        told.put(json.loads(line))


def _idle(stage: Stage) -> float:
    """Return the share of a core that a broker takes to which nothing is said."""
    before, began = processor_seconds(stage.process), time.monotonic()
    time.sleep(SECONDS)
    return (processor_seconds(stage.process) - before) / (time.monotonic() - began)


def _latencies(table: Table, told: list[tuple[float, float, float]]) -> None:
    titles = (
        "a rule, until it is answered",
        "a rule, until the last one heard it",
        "a rule, from the first to the last",
    )
    for place, title in enumerate(titles):
        times = sorted(each[place] * 1000 for each in told)
        p99 = times[int(len(times) * 0.99)]
        figure = f"{statistics.median(times):.0f} ms, p99 {p99:.0f} ms, longest {times[-1]:.0f} ms"
        table.add_row(title, figure, "", "")


def _revoke(stage: Stage, token: str, told: queue.Queue[dict[str, Any]]) -> tuple[float, float, float]:
    """Make a rule; return the seconds until it is answered, until the last follower has it, and since the first."""
    time.sleep(PAUSE)
    began = time.monotonic()
    made = _made(stage, token)
    answered = time.monotonic() - began
    while (heard := told.get(timeout=PATIENCE))["id"] != made["id"]:
        pass
    return answered, heard["last"] - began, heard["spread"]


def _made(stage: Stage, token: str) -> dict[str, Any]:
    data = json.dumps({"selector": {"token": uuid.uuid4().hex}, "reason": "benchmark"}).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    headers["Idempotency-Key"] = str(uuid.uuid4())
    request = urllib.request.Request(f"{stage.broker.issuer}/v1/revocations", data=data, headers=headers)  # noqa: S310
    with urllib.request.urlopen(request) as response:  # noqa: S310 - http on loopback
        made: dict[str, Any] = json.load(response)
    return made


def _storm(stage: Stage, token: str) -> float:
    """Make many rules at 32 connections; returns how many a second."""
    body = {"selector": {"token": "x"}, "reason": "benchmark"}
    keys = [f"Idempotency-Key: {uuid.uuid4()}" for _ in range(STORM)]
    requests = [stage.put("/v1/revocations", body, f"Authorization: Bearer {token}", key) for key in keys]
    return stage.load(requests, seconds=120, once=True).per_second


def _memory(stage: Stage) -> float:
    """Return the resident memory of the broker in MiB."""
    status = Path(f"/proc/{stage.process}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
