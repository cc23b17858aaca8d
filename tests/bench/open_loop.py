"""An open-loop HTTP/1.1 load generator: requests come at a rate, whether or not the ones before were answered.

A closed loop slows down with what it measures, and so never overloads it. Here a request's latency counts from the
moment at which it was due, also when it had to wait for a free connection; what has waited for ``PATIENCE`` seconds is
given up. ``python -m tests.bench.open_loop PORT CONNECTIONS RATE SECONDS FILE`` prints one JSON object; FILE is as for
``tests.bench.load``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import cast

import uvloop

from tests.bench.load import HEADERS_END, LENGTH, read_requests

PATIENCE = 5.0
TICK = 0.001


class Crowd:
    """All connections of one run, those that are free, and the requests that wait for one."""

    def __init__(self, requests: Iterator[bytes]) -> None:
        """``requests`` are sent in their order."""
        self.latencies: dict[str, list[float]] = {}
        self.lost = 0
        self.given_up = 0
        self._requests = requests
        self._free: deque[Wire] = deque()
        self._due: deque[float] = deque()
        self._loop = asyncio.get_running_loop()

    def due(self, at: float) -> None:
        """Send a request that is due at this time of the loop, as soon as a connection is free."""
        self._due.append(at)
        self._serve()

    def free(self, wire: Wire) -> None:
        """Use a connection for the next request."""
        self._free.append(wire)
        self._serve()

    def answered(self, status: str, due: float) -> None:
        """Note an answer."""
        self.latencies.setdefault(status, []).append(self._loop.time() - due)

    def _serve(self) -> None:
        now = self._loop.time()
        while self._due and now - self._due[0] > PATIENCE:
            self._due.popleft()
            self.given_up += 1
        while self._due and self._free:
            wire = self._free.popleft()
            if not wire.closed:
                wire.send(next(self._requests), self._due.popleft())


class Wire(asyncio.Protocol):
    """One connection: one request at a time."""

    def __init__(self, crowd: Crowd) -> None:
        """It is free as soon as it is made."""
        self.closed = False
        self._crowd = crowd
        self._buffer = b""
        self._due: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be free."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own, which is no subclass
        self._crowd.free(self)

    def send(self, request: bytes, due: float) -> None:
        """Send a request that was due at ``due``."""
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Collect one answer."""
        self._buffer += data
        head, separator, body = self._buffer.partition(HEADERS_END)
        if not separator or self._due is None:
            return
        lines = head.lower()
        place = lines.find(LENGTH)
        length = 0 if place < 0 else int(head[place + len(LENGTH) :].split(b"\r", 1)[0])
        if len(body) < length:
            return
        self._buffer = b""
        due, self._due = self._due, None
        self._crowd.answered(head[9:12].decode(), due)
        if b"connection: close" not in lines:
            self._crowd.free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the request that it was lost with, if there was one."""
        self.closed = True
        self._crowd.lost += self._due is not None


async def _run(
    port: int, connections: int, rate: float, seconds: float, requests: Iterator[bytes]
) -> Mapping[str, object]:
    loop = asyncio.get_running_loop()
    crowd = Crowd(requests)
    wires: list[Wire] = []

    async def connect() -> None:
        _, wire = await loop.create_connection(lambda: Wire(crowd), "127.0.0.1", port)
        wires.append(wire)

    for _ in range(connections):
        await connect()
    start, sent = loop.time(), 0
    while (now := loop.time() - start) < seconds:
        while sent < now * rate:
            crowd.due(start + sent / rate)
            sent += 1
        for wire in [wire for wire in wires if wire.closed]:
            wires.remove(wire)
            await connect()
        await asyncio.sleep(TICK)
    await asyncio.sleep(1)
    return _figures(crowd, seconds, sent)


def _figures(crowd: Crowd, seconds: float, sent: int) -> Mapping[str, object]:
    figures: dict[str, object] = {"sent": sent, "lost": crowd.lost, "given_up": crowd.given_up}
    for status, found in sorted(crowd.latencies.items()):
        latencies = sorted(found)
        figures[status] = {
            "answers": len(latencies),
            "per_second": len(latencies) / seconds,
            "p50_ms": latencies[len(latencies) // 2] * 1000,
            "p99_ms": latencies[len(latencies) * 99 // 100] * 1000,
            "max_ms": latencies[-1] * 1000,
        }
    return figures


def main() -> None:
    """Run once and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("connections", type=int)
    parser.add_argument("rate", type=float)
    parser.add_argument("seconds", type=float)
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    requests = cycle(read_requests(arguments.file))
    figures = uvloop.run(_run(arguments.port, arguments.connections, arguments.rate, arguments.seconds, requests))
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main()
