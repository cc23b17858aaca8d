"""A socket that sends datagrams, over UDP or to a socket of this machine. Nobody says whether they arrive."""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from broker.delivery.connecting import Place, connected

MAX_DATAGRAM: Final = 8192
"""Bytes. More is taken by few receivers (RFC 5426, 3.2: they should take 2048)."""


class Datagrams:
    """Opens its socket when there is something to send."""

    broken: Final = False

    def __init__(self, place: Place) -> None:
        """Nothing is opened yet."""
        self._place = place
        self._socket: socket.socket | None = None

    async def send(self, data: bytes) -> None:
        """Send one datagram, waiting while the socket takes none. Raises ``OSError``; then ``close``."""
        if self._socket is None:
            self._socket = await connected(self._place, socket.SOCK_DGRAM)
        # It is connected, so that this is one datagram; and what ICMP says of it fails the next one.
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def finish(self) -> bool:
        """Return False, since nobody knows what was read."""
        return False

    def close(self) -> None:
        """Close the socket."""
        opened, self._socket = self._socket, None
        if opened is not None:
            opened.close()
