"""Say whether a database is fit to hold a ledger, and what a session with it is like."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import Connection, inspect, select
from sqlalchemy.exc import DBAPIError

from broker.ledger import schema
from broker.ledger.databases import statements
from broker.ledger.databases.clock_difference import difference
from broker.ledger.databases.failures import unavailable
from broker.ledger.databases.postgresql_sessions import plain_engine
from broker.ledger.migrate import revision
from broker.ports import Server

_SESSION = """
SELECT current_setting('server_version'), current_setting('fsync'), current_setting('full_page_writes'),
       current_setting('synchronous_commit'), current_setting('data_checksums'),
       COALESCE((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)
"""


@dataclass(frozen=True, slots=True)
class DatabaseCheck:
    """What a server says of itself and the ledger in it. ``clock_difference`` is in seconds, ahead of ours if above 0.

    ``revision`` is the schema that is there, ``newest`` the one that this version of the broker makes; ``problems`` is
    what keeps a broker from using the ledger.
    """

    version: str
    fsync: str
    full_page_writes: str
    synchronous_commit: str
    data_checksums: str
    encrypted: bool
    clock_difference: float
    revision: str | None
    newest: str
    compatibility: int | None
    problems: tuple[str, ...]


def check_database(server: Server) -> DatabaseCheck:
    """Look at a database. Raises :class:`Unavailable` if it cannot be reached, or is one that is always refused."""
    engine = plain_engine(server)
    try:
        with engine.begin() as connection:
            return _checked(connection, server)
    except DBAPIError as error:
        raise unavailable(error) from error
    finally:
        engine.dispose()


def _checked(connection: Connection, server: Server) -> DatabaseCheck:
    ahead = difference(connection, time.time)
    found = revision(connection)
    there = found is not None and inspect(connection).has_table(schema.meta.name)
    compatibility = connection.scalar(select(schema.meta.c.compatibility)) if there else None
    version, fsync, full_pages, commit, checksums, encrypted = connection.exec_driver_sql(_SESSION).one()
    return DatabaseCheck(
        version=version,
        fsync=fsync,
        full_page_writes=full_pages,
        synchronous_commit=commit,
        data_checksums=checksums,
        encrypted=encrypted,
        clock_difference=ahead,
        revision=found,
        newest=schema.REVISION,
        compatibility=compatibility,
        problems=tuple(_problems(connection, server, ahead, found, compatibility)),
    )


def _problems(
    connection: Connection, server: Server, ahead: float, found: str | None, compatibility: int | None
) -> list[str]:
    if found is None:
        return ["there is no ledger in it; broker init --ledger-url makes one, broker db move moves one there"]
    problems = []
    if compatibility != schema.COMPATIBILITY:
        problems.append(
            f"its data format is {compatibility}, and this version of the broker has {schema.COMPATIBILITY}"
        )
    if found < schema.REVISION:
        problems.append(f"its schema is {found}, and {schema.REVISION} is needed: broker db upgrade")
    else:
        problems += statements.of(connection).schema_problems(connection)
    if abs(ahead) > server.max_clock_difference:
        problems.append(f"this host's clock differs from the database's by {abs(ahead):.1f} seconds")
    return problems
