"""A connection that only sends, over TCP, and notices when its peer has gone."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final, Protocol

from broker.delivery.connecting import Place, connected

SEND_BUFFER: Final = 256 * 1024
"""Bytes that the kernel may hold for us, so that what can be lost with a connection has a bound."""

_CHUNK: Final = 16_384


class _Line(Protocol):
    """A connection. All of it raises ``OSError`` when it has ended in any other way than it should."""

    async def send(self, data: bytes) -> None:
        """Hand bytes to the kernel."""

    async def finish(self) -> None:
        """Say that nothing more comes, and wait until the peer has said the same, having read all before it."""

    def look(self) -> None:
        """Take what the peer has said, if anything, which means nothing; raise if it has gone."""


class Stream:
    """Connects when there is something to send, and not again before whoever sends was told that it broke."""

    def __init__(self, place: Place, *, tls: ssl.SSLContext | None = None, server_name: str | None = None) -> None:
        """``server_name`` is what the peer's certificate must be for."""
        self._place = place
        self._tls, self._server_name = tls, server_name
        self._socket: socket.socket | None = None
        self._line: _Line | None = None

    @property
    def broken(self) -> bool:
        """Whether the peer has ended the connection that is open."""
        if self._line is None:
            return False
        try:
            self._line.look()
        except OSError:
            return True
        return False

    async def send(self, data: bytes) -> None:
        """Hand bytes to the kernel. Raises ``OSError`` if there is no connection, or it has ended; then ``close``."""
        if self._line is None:
            self._line = await self._connect()
        else:
            self._line.look()
        await self._line.send(data)

    async def finish(self) -> bool:
        """Close our side, and wait for the peer's: whether it has read everything. Takes as long as the peer likes."""
        if self._line is None:
            return True
        try:
            await self._line.finish()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Drop the connection, whatever is still on its way."""
        opened, self._socket, self._line = self._socket, None, None
        if opened is not None:
            opened.close()

    async def _connect(self) -> _Line:
        self._socket = await connected(self._place, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._tls is None:
            return _Plain(self._socket)
        line = _Encrypted(self._socket, self._tls, self._server_name)
        await line.greet()
        return line


class _Plain:
    """Bytes as they are."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def finish(self) -> None:
        self.look()
        self._socket.shutdown(socket.SHUT_WR)
        while await asyncio.get_running_loop().sock_recv(self._socket, _CHUNK):
            pass

    def look(self) -> None:
        _arrived(self._socket)


class _Encrypted:
    """TLS over it, by hand: asyncio's own hides whether the peer has said goodbye or just went."""

    def __init__(self, opened: socket.socket, context: ssl.SSLContext, server_name: str | None) -> None:
        self._socket = opened
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)

    async def greet(self) -> None:
        await self._do(self._tls.do_handshake)

    async def send(self, data: bytes) -> None:
        await self._do(lambda: self._tls.write(data))

    async def finish(self) -> None:
        self.look()
        await self._do(self._tls.unwrap)

    def look(self) -> None:
        self._take(_arrived(self._socket))
        try:
            if not self._tls.read(_CHUNK):
                raise _gone()
        except ssl.SSLWantReadError:
            pass

    async def _do(self, step: Callable[[], object]) -> None:
        """Do something, sending what it makes and reading what it needs."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                step()
            except ssl.SSLWantReadError:
                done = False
            else:
                done = True
            if self._outgoing.pending:
                await loop.sock_sendall(self._socket, self._outgoing.read())
            if done:
                return
            self._take(await loop.sock_recv(self._socket, _CHUNK))

    def _take(self, data: bytes | None) -> None:
        if data:
            self._incoming.write(data)
        elif data == b"":
            self._incoming.write_eof()


def _arrived(opened: socket.socket) -> bytes | None:
    """Return what has arrived, None if that is nothing. Raises ``OSError`` if the peer has gone."""
    try:
        data = opened.recv(_CHUNK)
    except BlockingIOError:
        return None
    if not data:
        raise _gone()
    return data


def _gone() -> OSError:
    return ConnectionResetError("the peer has closed the connection")
