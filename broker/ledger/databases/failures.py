"""What a failure of the store means: its kind in public words, without paths, statements or values."""

from __future__ import annotations

import sqlite3
from typing import Final

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionInTime

from broker.core.errors import BrokerError, Code, Unavailable

# The low byte of an SQLite result code; extended codes refine it.
_KINDS: Final = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_BUSY: "the database is locked by another process",
    sqlite3.SQLITE_LOCKED: "the database is locked by another process",
    sqlite3.SQLITE_READONLY: "the database is read-only",
    sqlite3.SQLITE_PERM: "the database may not be accessed",
    sqlite3.SQLITE_IOERR: "the disk reports an error",
    sqlite3.SQLITE_CORRUPT: "the database is damaged",
    sqlite3.SQLITE_NOTADB: "the database is damaged",
    sqlite3.SQLITE_CANTOPEN: "the database cannot be opened",
    sqlite3.SQLITE_NOMEM: "memory is exhausted",
    sqlite3.SQLITE_PROTOCOL: "the database is locked by another process",
}
_BROKEN: Final = frozenset(_KINDS)
_LOW_BYTE: Final = 0xFF
_PASSING: Final = _BROKEN - {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

_DAMAGED: Final = "the database is damaged"
# SQLSTATE of PostgreSQL, or the class that it begins with; the longer one counts.
_STATES: Final = {
    "08": "the connection to the database is lost",
    "25006": "the database is read-only",
    "25P03": "the database gave up a transaction that took too long",
    "28": "the database does not let the broker sign in",
    "40": "the database gave up a transaction",
    "42501": "the database may not be accessed",
    "53": "the database has no room left",
    "53100": "the disk is full",
    "53300": "the database has too many connections",
    "55P03": "the database is locked by another process",
    "57": "the database is stopping or starting",
    "57014": "the database took too long",
    "58": "the disk reports an error",
    "XX": _DAMAGED,
    "3D": "the database does not exist",
}
_STATE_CLASS: Final = 2


def is_store_failure(error: Exception) -> bool:
    """Whether the store failed, so that nothing could have been written; otherwise one change is to blame."""
    if isinstance(error, OSError | NoConnectionInTime) or _result_code(error) in _BROKEN:
        return True
    return _is_lost(error) or _state_kind(error) is not None


def may_pass(error: Exception) -> bool:
    """Whether the store failed for a reason that says nothing about what is stored."""
    if _result_code(error) in _PASSING:
        return True
    return _is_lost(error) or _state_kind(error) not in {None, _DAMAGED}


def unavailable(error: Exception) -> Unavailable:
    """Return what callers are told about a failure; the failure itself is its cause."""
    if isinstance(error, Unavailable):
        told = Unavailable(error.code, error.public, retry_after=error.retry_after)
    elif isinstance(error, BrokerError):
        told = Unavailable(error.code, error.public)
    elif is_store_failure(error):
        kind = _KINDS.get(_result_code(error)) or _state_kind(error) or "the database does not answer"
        told = Unavailable(Code.LEDGER_UNAVAILABLE, f"the ledger cannot be used now: {kind}")
    else:
        told = Unavailable(Code.INTERNAL, "the ledger could not process this")
    told.__cause__ = error
    return told


def in_doubt(error: Exception) -> Unavailable:
    """Return what callers are told when the store broke in the middle of making their changes durable."""
    told = unavailable(error)
    text = f"{told.public}; whether the last changes were written is not known yet"
    doubt = Unavailable(Code.LEDGER_UNAVAILABLE, text)
    doubt.__cause__ = error
    return doubt


def _result_code(error: Exception) -> int:
    code = getattr(_cause(error), "sqlite_errorcode", None)
    return code & _LOW_BYTE if isinstance(code, int) else 0


def _state_kind(error: Exception) -> str | None:
    state = getattr(_cause(error), "sqlstate", None)
    return _STATES.get(state, _STATES.get(state[:_STATE_CLASS])) if isinstance(state, str) else None


def _is_lost(error: Exception) -> bool:
    """Whether the driver of PostgreSQL says, by itself, that there is no connection: no server gave the reason."""
    cause = _cause(error)
    lost = isinstance(error, OperationalError | InterfaceError) or type(cause).__name__ == "OperationalError"
    return lost and getattr(cause, "sqlstate", "") is None


def _cause(error: Exception) -> BaseException | None:
    return error.orig if isinstance(error, DBAPIError) else error
