"""A syslog receiver on loopback that frames by octet counting, and breaks as it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self


@dataclass
class SyslogServer:
    """Keeps what it reads. The first ``resets`` connections it drops after some messages, unread bytes and all.

    Once it has ``stops_at`` messages, it reads no more.
    """

    certificate: tuple[Path, Path] | None = None
    client_ca: Path | None = None
    reset_after: int = 1
    resets: int = 0
    stops_at: int | None = None
    messages: list[bytes] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    _server: asyncio.Server | None = None
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._context())
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            self.drop()

    @property
    def url(self) -> str:
        return f"syslog+{'tcp' if self.certificate is None else 'tls'}://127.0.0.1:{self.port}"

    def drop(self) -> None:
        """Reset all connections."""
        for writer in self._open:
            if not writer.is_closing():
                _reset(writer)

    async def connected(self) -> None:
        """Wait until somebody is connected."""
        await self._until(lambda: bool(self._open))

    async def got(self, count: int) -> None:
        """Wait until so many messages were read."""
        await self._until(lambda: len(self.messages) >= count)

    async def stopped(self) -> None:
        """Wait until it reads no more."""
        await self._until(self._is_enough)

    def _is_enough(self) -> bool:
        return self.stops_at is not None and len(self.messages) >= self.stops_at

    async def _until(self, holds: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(holds)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _context(self) -> ssl.SSLContext | None:
        if self.certificate is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.client_ca)
        context.load_cert_chain(*self.certificate)
        if self.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        await self._tell()
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._read(reader, writer)
        finally:
            self._open.discard(writer)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = self.reset_after if self.connections <= self.resets else None
        while True:
            if self._is_enough():
                await asyncio.Event().wait()
            length = await reader.readuntil(b" ")
            assert length[:-1].isdigit()
            self.messages.append(await reader.readexactly(int(length)))
            await self._tell()
            if left is not None and (left := left - 1) == 0:
                _reset(writer)
                return


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection the hard way: what was sent over it and not read yet is gone."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
