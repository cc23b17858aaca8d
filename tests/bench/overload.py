"""A broker that is asked for three times the tokens that it can issue: what becomes of revoking and introspecting.

Each kind of request comes from a process of its own, at its own rate, over its own connections.
"""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.bench.load import write_requests
from tests.bench.stage import Stage

SECONDS = 60.0
TIMES = 3
CONNECTIONS = 512
REVOCATIONS_PER_SECOND = 10
INTROSPECTIONS_PER_SECOND = 100


@dataclass(frozen=True, slots=True)
class Stream:
    """Requests of one kind: how many a second, over how many connections."""

    name: str
    requests: Sequence[bytes]
    rate: float
    connections: int


def measure(folder: Path, table: Table, _many: int) -> None:
    """Find what the broker can issue, then ask for three times as much for a minute, and revoke meanwhile."""
    stage = Stage(folder)
    try:
        stage.start()
        capacity = stage.load(stage.federated(), seconds=5).per_second
        calm = _run(stage, _streams(stage, 0.3 * capacity), SECONDS / 6)
        before = _resident(stage.process)
        flood = _run(stage, _streams(stage, TIMES * capacity), SECONDS)
        grown = (_resident(stage.process) - before) / 2**20
    finally:
        stage.stop()
    table.add_row("tokens issued, nothing else asked", f"{capacity:,.0f}/s", "", "")
    for title, figures in ((f"at 0.3 x capacity, {CONNECTIONS} connections", calm), (f"at {TIMES} x capacity", flood)):
        for name, found in figures.items():
            table.add_row(f"{title}: {name}", _line(found), "", "")
    table.add_row("memory of the broker, grown in the flood", f"{grown:,.0f} MiB", "", "")


def _streams(stage: Stage, rate: float) -> Sequence[Stream]:
    operator = f"Authorization: Bearer {stage.operator_token()}"
    token = str(stage.send("/oauth2/token", stage.form_of(stage.federated()[0]))["access_token"])
    revocations = [
        stage.put(
            "/v1/revocations",
            {"selector": {"token": f"tok_{uuid.uuid4().hex[:26].upper()}"}, "reason": "overload"},
            operator,
            f"Idempotency-Key: {uuid.uuid4()}",
        )
        for _ in range(int(SECONDS) * REVOCATIONS_PER_SECOND)
    ]
    introspect = [stage.post("/oauth2/introspect", {"token": token}, operator)]
    return (
        Stream("issuing", stage.federated(), rate, CONNECTIONS),
        Stream("introspection", introspect, INTROSPECTIONS_PER_SECOND, 8),
        Stream("revocation", revocations, REVOCATIONS_PER_SECOND, 4),
    )


def _run(stage: Stage, streams: Sequence[Stream], seconds: float) -> Mapping[str, Any]:
    """Let all streams flow at once; return what each one met."""
    running = []
    for stream in streams:
        file = stage.folder / f"{stream.name}.bin"
        write_requests(file, stream.requests)
        numbers = (stage.broker.port, stream.connections, stream.rate, seconds)
        command = [sys.executable, "-m", "tests.bench.open_loop", *map(str, numbers), str(file)]
        if stream.name == "issuing":
            command[:0] = ["nice", "-n", "10"]  # callers elsewhere would not take the broker's processor, either
        running.append((stream.name, subprocess.Popen(command, stdout=subprocess.PIPE)))
    return {name: json.loads(process.communicate()[0]) for name, process in running}


def _line(found: Mapping[str, Any]) -> str:
    parts = [f"{found['sent']:,} sent, {found['lost']} lost, {found['given_up']:,} given up"]
    for status, one in found.items():
        if isinstance(one, dict):
            figures = f"p50 {one['p50_ms']:.0f}, p99 {one['p99_ms']:.0f}, max {one['max_ms']:.0f} ms"
            parts.append(f"{status}: {one['per_second']:,.0f}/s, {figures}")
    return "\n".join(parts)


def _resident(process: int) -> int:
    """Return how much memory a process has, in bytes."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    msg = "no such line"
    raise ValueError(msg)
