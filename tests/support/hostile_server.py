"""A server on loopback that answers as badly as it is told to; it counts what it was asked and what it sent."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

Answer = Callable[["Exchange"], Awaitable[None]]
MEBIBYTE = 1024 * 1024


@dataclass
class Exchange:
    """One connection: the request's head, and where the answer goes."""

    head: bytes
    writer: asyncio.StreamWriter
    sent: int = 0

    async def send(self, data: bytes) -> None:
        """Send bytes as they are. Ends the exchange, by an error, when the peer has gone."""
        self.writer.write(data)
        self.sent += len(data)
        await self.writer.drain()


@dataclass
class HostileServer:
    """Raw HTTP over TCP. ``answer`` is what happens after a request's head was read."""

    answer: Answer
    exchanges: list[Exchange] = field(default_factory=list)
    url: str = ""
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/keys"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            for exchange in self.exchanges:
                exchange.writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            exchange = Exchange(await reader.readuntil(b"\r\n\r\n"), writer)
            self.exchanges.append(exchange)
            await self.answer(exchange)
        writer.close()


def answering(body: bytes, *headers: str, status: str = "200 OK") -> Answer:
    """Answer properly."""

    async def answer(exchange: Exchange) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
        await exchange.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    return answer


async def never(exchange: Exchange) -> None:
    """Say nothing, and keep the connection."""
    await asyncio.Event().wait()


async def hang_up(exchange: Exchange) -> None:
    """Close the connection without a word."""


async def no_http(exchange: Exchange) -> None:
    """Speak another protocol."""
    await exchange.send(b"SSH-2.0-OpenSSH_9.6\r\n")


async def endless(exchange: Exchange) -> None:
    """A body that never ends, as fast as it is taken."""
    await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    while True:
        await exchange.send(chunk)


async def dripping(exchange: Exchange) -> None:
    """A body that never ends, a byte at a time: each read succeeds soon enough."""
    await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await exchange.send(b"1\r\n \r\n")
        await asyncio.sleep(0.01)


async def fifty_megabytes(exchange: Exchange) -> None:
    """A body of 50 MB that announces itself."""
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 52428800\r\n\r\n")
    for _ in range(50):
        await exchange.send(b" " * MEBIBYTE)


async def truncated(exchange: Exchange) -> None:
    """Less of a body than was announced."""
    await exchange.send(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"keys":')


async def endless_head(exchange: Exchange) -> None:
    """Headers without end."""
    await exchange.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await exchange.send(b"X-Filler: " + b"x" * 8000 + b"\r\n")


async def compressed_bomb(exchange: Exchange) -> None:
    """A few kilobytes that would become 20 MB."""
    body = gzip.compress(b" " * (20 * MEBIBYTE))
    await answering(body, "Content-Encoding: gzip")(exchange)


def redirecting(location: str, status: str = "302 Found") -> Answer:
    """Send the peer elsewhere."""
    return answering(b"", f"Location: {location}", status=status)
