"""An event loop whose connections to one port lead over another: a road that can be cut, for one process alone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any


class Detour(asyncio.SelectorEventLoop):
    """Goes to the port ``through`` of the loopback address whenever somebody connects to ``port`` there."""

    def __init__(self, port: int, through: int) -> None:
        super().__init__()
        self._around = {port: through}

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:  # noqa: ANN401 - as asyncio has it
        """Connect a socket."""
        host, port = address
        await super().sock_connect(sock, (host, self._around.get(port, port)))


def detour(port: int, through: int) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return the maker of such a loop, for ``asyncio.Runner``."""
    return lambda: Detour(port, through)
