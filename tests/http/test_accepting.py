"""Accepting from sockets that several processes have."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

from broker.http.accepting import Acceptor
from broker.workers.listening import listen
from tests.support.certificates import certificate_for_loopback

BOUND = 30.0


class Named(asyncio.Protocol):
    """Says the name of its process, and closes."""

    def __init__(self, name: bytes) -> None:
        self._name = name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport) or hasattr(transport, "write")
        transport.write(self._name)
        transport.close()


def named(name: bytes) -> Callable[[], asyncio.Protocol]:
    """Return the maker of such protocols."""
    return lambda: Named(name)


async def answer(port: int) -> bytes:
    """Return what a connection is told."""
    reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), BOUND)
    said = await asyncio.wait_for(reader.read(), BOUND)
    writer.close()
    return said


async def test_all_accept_and_any_may_leave() -> None:
    """Connections go to whoever is there; none is lost because somebody has closed its socket."""
    (listening,) = listen("127.0.0.1", 0)
    with listening:
        port = listening.getsockname()[1]
        one, other = (Acceptor([listening.dup()], named(name), None, None) for name in (b"one", b"other"))
        said = await asyncio.gather(*(answer(port) for _ in range(50)))
        assert set(said) <= {b"one", b"other"}
        await one.close()
        assert set(await asyncio.gather(*(answer(port) for _ in range(20)))) == {b"other"}
        await other.close()
        await other.close()
        waiting = asyncio.ensure_future(answer(port))
        later = Acceptor([listening.dup()], named(b"later"), None, None)
        assert await waiting == b"later"
        await later.close()


async def test_a_handshake_that_fails_is_nobody_elses_concern(tmp_path: Path) -> None:
    """What is not TLS is dropped, what is silent is given up, and the next one is served."""
    chain, key = certificate_for_loopback(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(chain, key)
    (listening,) = listen("127.0.0.1", 0)
    with listening:
        acceptor = Acceptor([listening.dup()], named(b"there"), tls, 0.5)
        address = listening.getsockname()
        with socket.create_connection(address) as silent, socket.create_connection(address) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            trusting = ssl.create_default_context()
            trusting.check_hostname = False
            trusting.verify_mode = ssl.CERT_NONE
            reader, writer = await asyncio.open_connection(*address, ssl=trusting)
            assert await asyncio.wait_for(reader.read(), BOUND) == b"there"
            writer.close()
            await asyncio.wait_for(acceptor.close(), BOUND)
            assert silent.fileno() >= 0
