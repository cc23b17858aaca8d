"""Which of the replicas on one database leads: the one whose session has an advisory lock on the ledger.

The database gives the lock to another when that session ends. Whoever had it may hear of that later, so it leads only
for a while after the last sign of its session; and whoever gets the lock leads only once that while is over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Any, Final

from broker.ledger.databases.postgresql import LEADING
from broker.ledger.databases.postgresql_sessions import connect
from broker.ports import Server
from broker.timing import SYSTEM

BELIEVED: Final = 3.0
"""Seconds for which a session that had the lock is believed to have it still."""

_EVERY: Final = 0.5
"""Seconds between two looks at the session."""

# Of this ledger only: there may be others in other schemas of the same database.
_LOCK: Final = "SELECT pg_try_advisory_lock(%s, hashtext(current_schema()))"


class DatabaseLeadership:
    """Implements ``Leadership`` among replicas, in a thread with a session of its own."""

    def __init__(self, server: Server, seconds: Callable[[], float] = SYSTEM.elapsed) -> None:
        """Take part from now on."""
        self._server = server
        self._seconds = seconds
        self._begins = inf
        self._ends = -inf
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger-leadership", daemon=True)
        self._thread.start()

    def leads(self) -> bool:
        """Whether this process leads now."""
        return self._begins <= self._seconds() < self._ends

    def close(self) -> None:
        """Let another process lead. Never leads again."""
        self._stop.set()
        self._thread.join(BELIEVED)
        self._ends = -inf

    def _run(self) -> None:
        while not self._stop.is_set():
            with suppress(Exception):  # whoever has no session does not lead, and tries again
                self._take_part()
            self._begins = inf
            self._stop.wait(_EVERY)

    def _take_part(self) -> None:
        with connect(self._server) as connection:
            connection.autocommit = True
            while not self._stop.is_set() and not _is_ours(connection):
                self._stop.wait(_EVERY)
            self._begins = self._seconds() + BELIEVED
            while not self._stop.is_set():
                before = self._seconds()
                connection.execute("SELECT 1")
                self._ends = before + BELIEVED
                self._stop.wait(_EVERY)


def _is_ours(connection: Any) -> bool:  # noqa: ANN401 - the driver's own type
    row = connection.execute(_LOCK, (LEADING,)).fetchone()
    return bool(row and row[0])
