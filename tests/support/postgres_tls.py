"""TLS in front of a real PostgreSQL, whose build for tests has none: what libpq sees is a server on TCP with TLS."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from tests.support.postgres import Postgres

_REQUEST: Final = bytes.fromhex("0000000804d2162f")
"""SSLRequest, the first message of a client that wants TLS."""

_SIZE: Final = 65_536


@dataclass
class PostgresTls:
    """A port on the loopback address; use it as a context. Who does not ask for TLS is turned away."""

    server: Postgres
    certificate: Path
    key: Path
    sessions: int = 0
    """How many have said something to the server behind."""
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client, context), daemon=True).start()

    def _serve(self, client: socket.socket, context: ssl.SSLContext) -> None:
        with suppress(OSError), client:
            if client.recv(len(_REQUEST), socket.MSG_WAITALL) != _REQUEST:
                return
            client.sendall(b"S")
            with context.wrap_socket(client, server_side=True) as safe, socket.socket(socket.AF_UNIX) as server:
                if not (first := safe.recv(_SIZE)):
                    return
                self.sessions += 1
                server.connect(f"{self.server.host}/.s.PGSQL.5432")
                server.sendall(first)
                threading.Thread(target=_carry, args=(server, safe), daemon=True).start()
                _carry(safe, server)


def _carry(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_SIZE):
            target.sendall(data)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
