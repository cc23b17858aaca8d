"""Many who follow the feed, in a process of their own: ``python -m tests.bench.followers PORT TOKEN COUNT SLOW``.

Every one reads the stream but ``SLOW`` of them, which read nothing. Prints a line once all are there; after that, for
each rule that somebody was told of, JSON lines with its id, when (monotonic seconds, which all processes share) the
last of those who read was told of it with its number, and how long after the first. Ends when it is told to.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from typing import cast

import uvloop

from tests.support.event_stream import STREAM

END = b"\n\n"
LINE = b"event: rule\ndata: "


class Follower(asyncio.Protocol):
    """One connection; tells the crowd of each rule."""

    def __init__(self, crowd: Crowd, request: bytes, *, reads: bool) -> None:
        self._crowd, self._request, self._reads = crowd, request, reads
        self._buffer = b""
        self._joined = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask; one that does not read stops before the first byte."""
        stream = cast("asyncio.Transport", transport)
        stream.write(self._request)
        if not self._reads:
            stream.pause_reading()
            self._crowd.joined()

    def data_received(self, data: bytes) -> None:
        """Take events; a chunk's frame between them does not matter here."""
        now = time.monotonic()
        *events, self._buffer = (self._buffer + data).split(END)
        for event in events:
            if not self._joined and b"event: heartbeat" in event:
                self._joined = True
                self._crowd.joined()
            place = event.find(LINE)
            if place >= 0 and b"id: " in event:
                self._crowd.told(event[place + len(LINE) :], now)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count who was sent away."""
        self._crowd.lost += 1


class Crowd:
    """All of them, and what they were told."""

    def __init__(self, count: int, slow: int) -> None:
        self.count, self.slow, self.lost = count, slow, 0
        self.everybody = asyncio.Event()
        self._there = 0
        self._heard: dict[bytes, tuple[float, int]] = {}

    def joined(self) -> None:
        """One more is there."""
        self._there += 1
        if self._there == self.count:
            self.everybody.set()

    def told(self, statement: bytes, now: float) -> None:
        """One more of those who read has heard a rule; report it when it was the last."""
        first, heard = self._heard.get(statement, (now, 0))
        self._heard[statement] = (first, heard + 1)
        if heard + 1 == self.count - self.slow:
            payload = statement.split(b".")[1]
            rule = json.loads(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
            told = {"id": rule["id"], "last": now, "spread": now - first, "lost": self.lost}
            print(json.dumps(told), flush=True)
            del self._heard[statement]


async def follow(port: int, token: str, count: int, slow: int) -> None:
    """Follow for ever."""
    loop = asyncio.get_running_loop()
    crowd = Crowd(count, slow)
    request = f"GET {STREAM} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    for number in range(count):
        reads = number >= slow
        await loop.create_connection(lambda reads=reads: Follower(crowd, request, reads=reads), "127.0.0.1", port)  # type: ignore[misc]
    await crowd.everybody.wait()
    print("{}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(follow(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
