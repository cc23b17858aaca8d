"""A real PostgreSQL for a run, which can be killed and stopped, and goes on with what it had written."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psycopg

from tests.chaos.faults import Fault, a_while
from tests.support.postgres import Postgres

START_SECONDS: Final = 60.0


class Database(Postgres):
    """A server with one ledger, in its first database; use it as a context."""

    @property
    def socket(self) -> Path:
        """The socket that it listens on."""
        return Path(self.host) / ".s.PGSQL.5432"

    @property
    def url(self) -> str:
        """Where the ledger is, by the server's own socket."""
        return f"postgresql://postgres@/postgres?host={quote(self.host)}"

    def kill(self) -> None:
        """End its first process without any warning; the others notice, and go without a word to anybody."""
        os.kill(self.pid, signal.SIGKILL)

    def start(self) -> None:
        """Start it again, once nothing of it is left, and wait until it has recovered."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self._server.ensure_postgres_running()
                self.execute("SELECT 1")
            except (subprocess.SubprocessError, psycopg.OperationalError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return

    def signal(self, which: signal.Signals) -> None:
        """Send a signal to all its processes."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        for process in (self.pid, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(process, which)

    def faults(self) -> list[Fault]:
        """Return what can go wrong with it."""

        async def killed() -> None:
            self.kill()
            await a_while()
            await asyncio.to_thread(self.start)

        async def stopped() -> None:
            self.signal(signal.SIGSTOP)
            await a_while()
            self.signal(signal.SIGCONT)

        return [Fault("killed", "database", killed), Fault("stopped", "database", stopped)]
