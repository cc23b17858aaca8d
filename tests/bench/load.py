"""A small closed-loop HTTP/1.1 load generator: prepared requests, kept-alive connections, latencies.

It runs in a process of its own so that it takes as little as possible from the server's core:
``python -m tests.bench.load PORT CONNECTIONS SECONDS FILE`` where FILE holds whole requests, each preceded by its
length (4 bytes, big endian). Requests are sent in turn; with ``--once`` each is sent once at most. With ``--then``
(another such file, of one request) every answer is followed by that request, in which ``{ID}`` is the ``action_id`` of
the answer; the two count as one. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import cast

import uvloop

HEADERS_END = b"\r\n\r\n"
LENGTH = b"content-length:"
OVERLOADED = "503"
"""Such answers are not counted: they come sooner than what they stand for."""


class Connection(asyncio.Protocol):
    """Sends the next request when the answer to the last one is complete."""

    def __init__(self, requests: Iterator[bytes], deadline: float, then: bytes | None = None) -> None:
        """Stop at ``deadline`` (monotonic seconds) or when there are no more requests; ``then`` follows each answer."""
        self._then = then
        self._follows = False
        self.latencies: list[float] = []
        self.overloaded = 0
        self.statuses: dict[str, int] = {}
        self.done = asyncio.get_running_loop().create_future()
        self._requests = requests
        self._deadline = deadline
        self._buffer = b""
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own, which is no subclass
        self._next()

    def data_received(self, data: bytes) -> None:
        """Collect one answer."""
        self._buffer += data
        head, separator, body = self._buffer.partition(HEADERS_END)
        if not separator:
            return
        place = head.lower().index(LENGTH) + len(LENGTH)
        length = int(head[place:].split(b"\r", 1)[0])
        if len(body) < length:
            return
        status = head[9:12].decode()
        self._buffer = body[length:]
        if status == OVERLOADED:
            self.overloaded += 1
            self._next()
            return
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self._follows = self._then is not None and not self._follows and status.startswith("2")
        if self._follows and self._then is not None:
            self._transport.write(self._then.replace(b"{ID}", json.loads(body[:length])["action_id"].encode()))
            return
        self.latencies.append(time.perf_counter() - self._sent)
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        """Finish; a connection that the server closed ends this one's part, and shows in the count of answers."""
        if not self.done.done():
            self.done.set_result(None)

    def _next(self) -> None:
        request = next(self._requests, None) if time.monotonic() < self._deadline else None
        if request is None:
            self._transport.close()
            return
        self._sent = time.perf_counter()
        self._transport.write(request)


def read_requests(path: Path) -> Sequence[bytes]:
    """Read the prepared requests."""
    data, requests, place = path.read_bytes(), [], 0
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        requests.append(data[place + 4 : place + 4 + length])
        place += 4 + length
    return requests


def write_requests(path: Path, requests: Sequence[bytes]) -> None:
    """Write prepared requests."""
    path.write_bytes(b"".join(struct.pack(">I", len(request)) + request for request in requests))


async def _run(
    port: int, connections: int, seconds: float, requests: Iterator[bytes], then: bytes | None
) -> dict[str, object]:
    loop = asyncio.get_running_loop()
    start = time.monotonic()
    protocols = [
        (await loop.create_connection(lambda: Connection(requests, start + seconds, then), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    await asyncio.gather(*(protocol.done for protocol in protocols))
    elapsed = time.monotonic() - start
    latencies = sorted(latency for protocol in protocols for latency in protocol.latencies)
    statuses: dict[str, int] = {}
    for protocol in protocols:
        for status, count in protocol.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
    return {
        "seconds": elapsed,
        "answers": len(latencies),
        "per_second": len(latencies) / elapsed,
        "p50_ms": latencies[len(latencies) // 2] * 1000 if latencies else None,
        "p99_ms": latencies[len(latencies) * 99 // 100] * 1000 if latencies else None,
        "statuses": statuses,
        "overloaded": sum(protocol.overloaded for protocol in protocols),
    }


def main() -> None:
    """Run once and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("connections", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("file", type=Path)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--then", type=Path)
    arguments = parser.parse_args()
    requests = read_requests(arguments.file)
    turn = iter(requests) if arguments.once else cycle(requests)
    then = None if arguments.then is None else read_requests(arguments.then)[0]
    figures = uvloop.run(_run(arguments.port, arguments.connections, arguments.seconds, turn, then))
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main()
