"""Hear at once that another host has committed something that must be known: NOTIFY, on a connection of its own."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from typing import Final

from broker.ledger.databases.postgresql import CHANNEL
from broker.ledger.databases.postgresql_sessions import connect
from broker.ports import Server

_PAUSE: Final = 1.0
"""Seconds before a connection that was lost is made again."""


class Listener:
    """A thread that calls ``wake`` whenever it is told, and whenever it may have missed something."""

    def __init__(self, server: Server, wake: Callable[[], None]) -> None:
        """Begin to listen. ``wake`` is called in the thread, and must not raise."""
        self._server = server
        self._wake = wake
        self._stop = threading.Event()
        self._stopping, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="ledger-listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, and wait for it."""
        self._stop.set()
        self._stopping.close()
        self._thread.join()
        self._stopped.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._listen()
            except Exception:  # noqa: BLE001 - the watch looks by itself meanwhile, and says what is wrong
                self._stop.wait(_PAUSE)

    def _listen(self) -> None:
        with connect(self._server) as connection:
            connection.autocommit = True
            connection.execute(f"LISTEN {CHANNEL}")
            self._wake()
            while not self._stop.is_set():
                select.select([connection.fileno(), self._stopped.fileno()], [], [])
                for _ in connection.notifies(timeout=0):
                    self._wake()
