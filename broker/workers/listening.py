"""Listening sockets that the supervisor opens and its workers accept from.

One socket for all, instead of one for each by ``SO_REUSEPORT``: nobody else can bind the port, whereas with that option
any process of the same user can join in and is given a share of the connections; a worker that dies, hangs or is
replaced takes no queue of connections with it; and whoever is idle accepts, not whoever a hash has chosen.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from broker.http.server import BACKLOG


def listen(host: str, port: int) -> tuple[socket.socket, ...]:
    """Return a listening socket for each address of a host; with port 0 all get the same free port.

    Raises ``OSError`` if one cannot be had.
    """
    sockets: list[socket.socket] = []
    try:
        for family, address in _addresses(host, port):
            number = sockets[0].getsockname()[1] if sockets else port
            sockets.append(_listening(family, (address[0], number, *address[2:])))
    except BaseException:
        for opened in sockets:
            opened.close()
        raise
    return tuple(sockets)


def inherited(descriptors: Sequence[int]) -> tuple[socket.socket, ...]:
    """Return the sockets that a worker was given by its supervisor."""
    return tuple(socket.socket(fileno=descriptor) for descriptor in descriptors)


def _addresses(host: str, port: int) -> Sequence[tuple[socket.AddressFamily, tuple[Any, ...]]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))  # a host may be listed twice


def _listening(family: socket.AddressFamily, address: tuple[Any, ...]) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(address)
        opened.listen(BACKLOG)
        opened.settimeout(0)
    except BaseException:
        opened.close()
        raise
    return opened
