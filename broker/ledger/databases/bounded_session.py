"""A session of the driver in which no wait for the server is endless. Needs psycopg, which is optional.

The server bounds its statements by itself, and the network its silence. Neither helps if the server's processes hang
while its host still answers, as they do on a disk that does.
"""

from __future__ import annotations

from math import inf
from typing import Any, Final, TypeVar

import psycopg
from psycopg.abc import PQGen

_INTERVAL: Final = 0.1
"""Seconds between two looks at the time, as of the driver."""

T = TypeVar("T")


class BoundedSession(psycopg.Connection[Any]):
    """Ends itself when the server leaves something unanswered for too long. What it was, is in doubt then."""

    patience = inf
    """Seconds."""

    def wait(self, gen: PQGen[T], interval: float = _INTERVAL, timeout: float | None = None) -> T:
        """Go on with an operation until it is done. Raises ``psycopg.OperationalError`` if that takes too long."""
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.patience)
        except psycopg.errors._WaitTimeout:  # noqa: SLF001 - the driver has no public name for it
            self.close()
            raise
