"""Accepting connections from listening sockets that other processes accept from, too.

One at a time: whoever has nothing else to do takes the next one, so that a busy process gets fewer. The event loops'
own servers take all that wait at once.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from broker.background import Background

PAUSE_SECONDS: Final = 1.0
"""How long nothing is accepted when there are no descriptors left."""


class Acceptor:
    """Accepts until it is closed. Belongs to one event loop."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        connection: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None,
        handshake_seconds: float | None,
    ) -> None:
        """Begin to accept from ``sockets``, which belong to this from now on and do not block."""
        self._sockets = tuple(sockets)
        self._connection = connection
        self._tls = tls
        self._handshake_seconds = handshake_seconds
        self._connecting = Background()
        self._closed = False
        for each in self._sockets:
            self._listen(each)

    async def close(self) -> None:
        """Accept no more; other processes do. What was accepted goes on, once its handshake has ended."""
        if self._closed:
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        for each in self._sockets:
            loop.remove_reader(each)
            each.close()
        await self._connecting.finish()

    def _listen(self, listening: socket.socket) -> None:
        if not self._closed:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        try:
            accepted, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process was faster, or the client has gone
        except OSError:
            loop = asyncio.get_running_loop()
            loop.remove_reader(listening)
            loop.call_later(PAUSE_SECONDS, self._listen, listening)
            return
        accepted.settimeout(0)
        self._connecting.begin(self._connect(accepted))

    async def _connect(self, accepted: socket.socket) -> None:
        """Hand a connection to its protocol; one whose handshake fails is gone, and nobody else's concern."""
        with suppress(OSError, ssl.SSLError, TimeoutError):
            await asyncio.get_running_loop().connect_accepted_socket(
                self._connection, accepted, ssl=self._tls, ssl_handshake_timeout=self._handshake_seconds
            )
