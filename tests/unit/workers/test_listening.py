"""Sockets that listen for all workers."""

from __future__ import annotations

import errno
import socket

import pytest

from broker.workers.listening import listen


def test_nobody_else_can_have_the_port() -> None:
    """Also not who would share it, as any process of the same user could if these sockets did."""
    (ours,) = listen("127.0.0.1", 0)
    with ours, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="in use") as refused:
            other.bind(ours.getsockname())
        assert refused.value.errno == errno.EADDRINUSE


def test_a_port_that_somebody_shares_is_not_joined() -> None:
    """Requests would go to either of two services."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="in use"):
            listen("127.0.0.1", other.getsockname()[1])


def test_a_host_with_several_addresses_has_one_port() -> None:
    """Port 0 is chosen once."""
    sockets = listen("localhost", 0)
    assert len({opened.getsockname()[1] for opened in sockets}) == 1
    for opened in sockets:
        opened.close()
