"""The engines through which a ledger is reached, wherever it is."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from sqlalchemy import Engine

from broker.core.errors import Code, Unavailable
from broker.ledger.databases import postgresql_sessions, sqlite
from broker.ports import Place, Server


def migrating_engine(place: Place, busy_seconds: float = sqlite.BUSY_SECONDS) -> Engine:
    """Return an engine for making a ledger, or bringing its schema up to date."""
    if isinstance(place, Server):
        return postgresql_sessions.plain_engine(place)
    return sqlite.writer_engine(place, busy_seconds=busy_seconds)


def writer_engine(place: Place, busy_seconds: float = sqlite.BUSY_SECONDS) -> Engine:
    """Return an engine whose transactions have the ledger for themselves from their start."""
    if isinstance(place, Server):
        return postgresql_sessions.writer_engine(place)
    return sqlite.writer_engine(place, busy_seconds=busy_seconds)


def reader_engine(place: Place, busy_seconds: float = sqlite.BUSY_SECONDS) -> Engine:
    """Return an engine for a few threads whose transactions see one state of the ledger and cannot write."""
    if isinstance(place, Server):
        return postgresql_sessions.reader_engine(place)
    return sqlite.reader_engine(place, busy_seconds=busy_seconds)


def examining_engine(place: Place) -> Engine:
    """Return an engine like that of readers, which also reads values that no broker has written."""
    return postgresql_sessions.reader_engine(place) if isinstance(place, Server) else sqlite.examining_engine(place)


def offline_engine(place: Place) -> Engine:
    """Return an engine to look at a ledger beside whoever uses it. It changes nothing and keeps no connection.

    A file in use has a log, through which it must be read. A log that is left beside a file that nobody uses is read,
    too: it holds what was committed last. Without one, no file is made beside the ledger. Of a database, a standby will
    do. Raises :class:`Unavailable` if there is no file.
    """
    if isinstance(place, Server):
        return _offline_server(place)
    if not place.is_file():
        raise Unavailable(Code.LEDGER_UNAVAILABLE, f"there is no ledger at {place}")
    return _offline_file(place, immutable=not Path(f"{place}-wal").exists())


@lru_cache(maxsize=4)
def _offline_file(path: Path, *, immutable: bool) -> Engine:
    return sqlite.offline_engine(path, immutable=immutable)


@lru_cache(maxsize=4)
def _offline_server(server: Server) -> Engine:
    return postgresql_sessions.offline_engine(server)
