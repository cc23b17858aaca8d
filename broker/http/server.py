"""Listening: sockets, TLS, limits on connections, and a stop that answers what was accepted."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from broker.core.errors import BrokerError, Code
from broker.http.accepting import Acceptor
from broker.http.app import GATE
from broker.http.connection import Connection, Phase

BACKLOG: Final = 1024
RETIRE_SECONDS: Final = 5.0
"""How long a process that is replaced waits for the next request on each of its connections."""

SWEEP_SECONDS: Final = 0.5
"""How often connections are looked through for slow ones."""

_OURS: Final = frozenset({Phase.BUSY, Phase.STREAMING})
"""Phases in which a connection does not wait for its client."""

_LINGER_SECONDS: Final = 1.0
_MAX_LINE: Final = 8190
_MAX_HEADERS: Final = 64
_SPARE_FILES: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Limits of one listener; times in seconds, sizes in bytes.

    ``header_seconds`` is from the first byte of a request to the last of its header (and for a TLS handshake);
    ``write_seconds`` is how long a client may leave an answer unread; ``stop_seconds`` how long stopping may take.
    ``header_bytes`` bounds one header field; all of them together are bounded by that plus ``body_bytes``.
    """

    connections: int = 4096
    header_bytes: int = 16_384
    body_bytes: int = 65_536
    header_seconds: float = 10.0
    write_seconds: float = 30.0
    keep_alive_seconds: float = 75.0
    stop_seconds: float = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """PEM files of a certificate chain and its private key."""

    chain: str
    key: str


class Connections:
    """All connections of a listener, those that wait for their client in the order since when."""

    def __init__(self, bounds: Bounds) -> None:
        """At most ``bounds.connections`` at a time."""
        self._bounds = bounds
        self._waiting: OrderedDict[Connection, None] = OrderedDict()
        self._all: set[Connection] = set()
        self._none = asyncio.Event()
        self._none.set()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._all)

    async def none_left(self) -> None:
        """Wait until there are none."""
        await self._none.wait()

    def joined(self, connection: Connection) -> bool:
        """Make room for a new connection: the one that has kept us waiting the longest goes. False if all are busy."""
        self._all.add(connection)
        self._none.clear()
        if len(self._all) <= self._bounds.connections:
            return True
        longest = next(iter(self._waiting))
        if longest is connection:
            return False
        longest.abort() if longest.unread else longest.force_close()
        self._forget(longest)
        return True

    def moved(self, connection: Connection) -> None:
        """Keep the order: what entered a phase last waits the shortest."""
        self._waiting.pop(connection, None)
        if connection.phase not in _OURS:
            self._waiting[connection] = None

    def left(self, connection: Connection) -> None:
        """Forget a connection that is lost."""
        self._forget(connection)

    def sweep(self, now: float) -> None:
        """End the connections whose client is too slow, in sending a header or in reading an answer."""
        for connection in list(self._waiting):
            waited = now - connection.since
            if connection.phase is Phase.HEADER:
                if waited > self._bounds.header_seconds:
                    text = f"the header did not arrive within {self._bounds.header_seconds:g} s"
                    connection.end_with(BrokerError(Code.TOO_SLOW, text))
                elif connection.received > self._bounds.header_bytes + self._bounds.body_bytes:
                    connection.end_with(BrokerError(Code.TOO_LARGE, "the header is too large"))
            elif waited > self._bounds.write_seconds and (connection.unread or connection.phase is Phase.CLOSING):
                connection.abort()

    def _forget(self, connection: Connection) -> None:
        self._all.discard(connection)
        self._waiting.pop(connection, None)
        if not self._all:
            self._none.set()


class Door:
    """One listener: an application on an address."""

    def __init__(
        self,
        app: web.Application,
        host: str,
        port: int,
        bounds: Bounds,
        issuer: str,
        *,
        shared: Sequence[socket.socket] = (),
    ) -> None:
        """Nothing listens before :meth:`open`. ``shared`` are sockets that listen there for several processes."""
        self._app = app
        self._host = host
        self._port = port
        self._bounds = bounds
        self._issuer = issuer
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=bounds.stop_seconds)
        self._connections = Connections(bounds)
        self._shared = tuple(shared)
        self._listener: asyncio.Server | Acceptor | None = None
        self._sweeping: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The TCP port it listens on; the real one if 0 was asked for."""
        return self._port

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    @property
    def capacity(self) -> int:
        """How many connections there may be."""
        return self._bounds.connections

    async def open(self, tls: ssl.SSLContext | None) -> None:
        """Start to listen. Raises ``OSError`` if the address cannot be had."""
        await self._runner.setup()
        handshake = None if tls is None else self._bounds.header_seconds
        if self._shared:
            self._port = self._shared[0].getsockname()[1]
            self._listener = Acceptor(self._shared, self._connection, tls, handshake)
        else:
            self._listener = await asyncio.get_running_loop().create_server(
                self._connection, self._host, self._port, ssl=tls, backlog=BACKLOG, ssl_handshake_timeout=handshake
            )
            self._port = self._listener.sockets[0].getsockname()[1]
        self._sweeping = asyncio.create_task(self._sweep())

    async def retire(self) -> None:
        """Accept no more connections, answer one more request on each that there is, and wait until they are closed.

        That takes :data:`RETIRE_SECONDS` at most: a client that has nothing to ask keeps its connection for no reason.
        """
        await self._stop_listening()
        self._app[GATE].retire()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RETIRE_SECONDS):
                await self._connections.none_left()

    def drain(self) -> None:
        """Answer 503 to what comes from now on."""
        self._app[GATE].drain()

    async def close(self) -> None:
        """Answer what was accepted, within the time for stopping; then close every connection."""
        self.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._bounds.stop_seconds):
                await self._app[GATE].drained()
        await self._stop_listening()
        if self._sweeping is not None:
            self._sweeping.cancel()
        await self._runner.cleanup()

    async def _stop_listening(self) -> None:
        if isinstance(self._listener, Acceptor):
            await self._listener.close()
        elif self._listener is not None:
            self._listener.close()

    def _connection(self) -> Connection:
        bounds = self._bounds
        return Connection(
            self._runner.server,
            crowd=self._connections,
            issuer=self._issuer,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=bounds.keep_alive_seconds,
            max_line_size=_MAX_LINE,
            max_headers=_MAX_HEADERS,
            max_field_size=bounds.header_bytes,
            lingering_time=_LINGER_SECONDS,
            auto_decompress=False,
            access_log=None,
        )

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._connections.sweep(asyncio.get_running_loop().time())


class HttpServer:
    """The broker's listeners: the public one, and the private one for metrics if there is any."""

    def __init__(self, public: Door, private: Door | None = None, certificate: Certificate | None = None) -> None:
        """With a ``certificate`` the public listener speaks TLS.

        Raises ``OSError`` or ``ssl.SSLError`` if the certificate cannot be used. Nothing listens before :meth:`start`.
        """
        self._public = public
        self._private = private
        self._certificate = certificate
        self._tls = None if certificate is None else _context(certificate)

    @property
    def port(self) -> int:
        """The public TCP port."""
        return self._public.port

    @property
    def metrics_port(self) -> int | None:
        """The TCP port of the private address, if there is one."""
        return None if self._private is None else self._private.port

    async def start(self) -> None:
        """Start to listen. Raises ``OSError`` if an address cannot be had."""
        _allow_files(self._public.capacity + (0 if self._private is None else self._private.capacity))
        try:
            if self._private is not None:
                await self._private.open(None)
            await self._public.open(self._tls)
        except BaseException:
            await self.stop()
            raise

    def reload_certificates(self) -> None:
        """Use the certificate that is in the files now, for new connections.

        Raises ``OSError`` or ``ssl.SSLError`` if it cannot be used; then the old one stays.
        """
        if self._certificate is None or self._tls is None:
            return
        _context(self._certificate)  # try it before the one in use is touched
        self._tls.load_cert_chain(self._certificate.chain, self._certificate.key)

    async def retire(self) -> None:
        """Leave what is new to other processes, and answer what comes on the connections that there are."""
        await self._public.retire()

    async def stop(self) -> None:
        """Refuse what is new, answer what was accepted, then close. Metrics can be read to the end."""
        await self._public.close()
        if self._private is not None:
            await self._private.close()


def _allow_files(connections: int) -> None:
    """Raise this process's limit on open files, as far as it may be raised, so that every connection can have one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    granted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))


def _context(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(certificate.chain, certificate.key)
    return context
