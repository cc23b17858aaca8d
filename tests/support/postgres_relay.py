"""A way to PostgreSQL that can be cut: before a COMMIT arrives, or after it was done and before its answer."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from broker.ports import Server
from tests.support.postgres import Postgres

COMMIT = b"COMMIT"
_PORT = ".s.PGSQL.5432"
_SIZE = 65_536


@dataclass
class PostgresRelay:
    """A socket in ``folder`` behind which is a server; use it as a context. What it does may be changed at any time."""

    folder: Path
    server: Postgres
    lose_commits: bool = False
    """Whether each COMMIT is lost, and the connection with it."""
    lose_answers: bool = False
    """Whether each COMMIT is done, but nobody hears of it: the connection ends before its answer."""
    silent: bool = False
    """Whether new connections are refused."""
    _pairs: list[tuple[socket.socket, socket.socket]] = field(default_factory=list)
    _listener: socket.socket = field(default_factory=lambda: socket.socket(socket.AF_UNIX))

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._listener.bind(str(self.folder / _PORT))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    def behind(self, place: Server) -> Server:
        """Return the same place, reached through here."""
        return replace(place, url=place.url.replace(self.server.host, str(self.folder)))

    def cut(self) -> None:
        """End all connections."""
        for pair in self._pairs:
            _end(*pair)

    def cut_off(self) -> None:
        """End all connections, and let no new one through."""
        self.silent = True
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.silent:
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(f"{self.server.host}/{_PORT}")
            except OSError:
                client.close()
                continue
            self._pairs.append((client, server))
            threading.Thread(target=self._upwards, args=(client, server), daemon=True).start()
            threading.Thread(target=self._downwards, args=(client, server), daemon=True).start()

    def _upwards(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(_SIZE):
                if COMMIT in data and self.lose_commits:
                    break
                if COMMIT in data and self.lose_answers:
                    client.shutdown(socket.SHUT_RD)
                    server.sendall(data)
                    return  # the other thread ends both once the answer is here
                server.sendall(data)
        _end(client, server)

    def _downwards(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(_SIZE):
                if COMMIT in data and self.lose_answers:  # the tag of the answer
                    break
                client.sendall(data)
        _end(client, server)


def _end(*ends: socket.socket) -> None:
    for each in ends:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
