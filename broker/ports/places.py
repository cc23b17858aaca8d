"""Where a ledger is: in a file of this host, or in a database that several hosts share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Server:
    """A PostgreSQL database, by its libpq connection URI, which holds no password. Times are in seconds.

    ``beside`` is the path of the notes that a broker makes for itself: ``<beside>.checkpoint`` and ``<beside>.check``.
    ``connect_seconds`` bounds connecting, ``statement_seconds`` each statement, and with it waiting for a lock.
    ``max_staleness`` is for how long what was read is believed to be all; a wall clock that differs from that of the
    database by more than ``max_clock_difference`` issues nothing.
    ``allow_unsafe`` goes on with a server that may lose what it has confirmed (``fsync = off``): for tests.
    """

    url: str
    beside: Path
    connect_seconds: float = 5.0
    statement_seconds: float = 30.0
    max_staleness: float = 1.0
    max_clock_difference: float = 5.0
    allow_unsafe: bool = False

    def __str__(self) -> str:
        """Return the URL without what could be confidential: scheme, hosts, ports and database."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


Place = Path | Server
"""Where a ledger is."""


def beside(place: Place) -> Path:
    """Return the path that the notes about a ledger begin with."""
    return place.beside if isinstance(place, Server) else place
