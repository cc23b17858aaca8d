"""A road between two peers on this machine, which can be cut, blocked and made slow; it needs no privileges."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

CHUNK: Final = 64 * 1024


class Road:
    """Passes connections on, in turn to those of its ends that can be reached. Use it as a context.

    Blocked is worse than cut: connections stay up, or come about, and nothing arrives any more, in either direction.
    """

    def __init__(self, ends: Sequence[int | Path]) -> None:
        """``ends`` are ports of the loopback address, or sockets in the file system."""
        self._ends = list(ends)
        self._turn = 0
        self._cut = False
        self._open = asyncio.Event()
        self._open.set()
        self._delay = 0.0
        self._server: asyncio.Server | None = None
        self._ways: set[asyncio.StreamWriter] = set()
        self._travels: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._came, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._abort()
        for travel in self._travels:
            travel.cancel()
        await asyncio.gather(*self._travels, return_exceptions=True)

    @property
    def port(self) -> int:
        """Where it begins: a port of the loopback address."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def cut(self) -> None:
        """Reset what is under way, and whatever comes."""
        self._cut = True
        self._abort()

    def block(self) -> None:
        """Let nothing through; connections stay up."""
        self._open.clear()

    def slow(self, seconds: float) -> None:
        """Let everything take so much longer in each direction."""
        self._delay = seconds

    def mend(self) -> None:
        """Be a good road again. What was held up goes on."""
        self._cut, self._delay = False, 0.0
        self._open.set()

    def _abort(self) -> None:
        for way in self._ways:
            _reset(way)

    def _came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        travel = asyncio.ensure_future(self._travel(reader, writer))
        self._travels.add(travel)
        travel.add_done_callback(self._travels.discard)

    async def _travel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ways = [writer]
        self._ways.add(writer)
        try:
            if self._cut:
                raise ConnectionResetError
            await self._open.wait()
            back, there = await self._reached()
            ways.append(there)
            self._ways.add(there)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, there))
                both.create_task(self._pass(back, writer))
        except* OSError:
            for way in ways:  # one of the peers is gone, or the road was cut: whoever is left is told by a reset
                _reset(way)
        finally:
            for way in ways:
                self._ways.discard(way)
                way.close()

    async def _reached(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the next end that can be reached. Raises ``OSError`` if there is none."""
        for _ in self._ends[1:]:
            with contextlib.suppress(OSError):
                return await self._connected()
        return await self._connected()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._turn += 1
        end = self._ends[self._turn % len(self._ends)]
        if isinstance(end, Path):
            return await asyncio.open_unix_connection(end)
        return await asyncio.open_connection("127.0.0.1", end)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            if self._delay:
                await asyncio.sleep(self._delay)
            await self._open.wait()
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


def _reset(way: asyncio.StreamWriter) -> None:
    """End a connection as one ends whose peer is gone: by a reset, and without what is on its way."""
    if not way.transport.is_closing():
        way.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        way.transport.abort()
