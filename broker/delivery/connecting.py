"""Sockets that are connected to a place, for whoever sends bytes of its own."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

Place = tuple[str, int] | str
"""A host and a port, or the path of a socket of this machine."""


async def connected(place: Place, kind: socket.SocketKind) -> socket.socket:
    """Return a socket that is connected, and does not block; of several addresses the first that can be had.

    Raises ``OSError``.
    """
    if isinstance(place, str):
        return await _connected(socket.AF_UNIX, kind, place)
    failed: OSError | None = None
    for family, _, _, _, address in await asyncio.get_running_loop().getaddrinfo(*place, type=kind):
        try:
            return await _connected(family, kind, address)
        except OSError as error:
            failed = error
    raise failed or OSError("the name has no address")


async def _connected(family: int, kind: socket.SocketKind, address: tuple[Any, ...] | str) -> socket.socket:
    opened = socket.socket(family, kind)
    try:
        opened.setblocking(False)  # noqa: FBT003 - as the library has it
        await asyncio.get_running_loop().sock_connect(opened, address)
    except BaseException:
        opened.close()
        raise
    return opened
