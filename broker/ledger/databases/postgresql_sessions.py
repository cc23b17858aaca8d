"""Sessions with PostgreSQL: how they are begun, what they may rely on, and which server is refused.

Nothing is left to the settings of the server, the database or the role that could make a commit less than durable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, Engine, NullPool, QueuePool, create_engine, event

from broker.core.errors import Code, Unavailable
from broker.ports import Server

if TYPE_CHECKING:
    import psycopg

OLDEST: Final = 14
"""The oldest major version of PostgreSQL that is known to work."""

_VERSION: Final = 10_000
_DRIVER: Final = "postgresql+psycopg://"
# The text of an error must not repeat what was being written.
_ALONE: Final[dict[str, Any]] = {"poolclass": NullPool, "hide_parameters": True}
_ONE_STATE: Final[dict[str, Any]] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
_NETWORK: Final = {
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    # A primary that is gone without a word is noticed after as long, also in the middle of an answer.
    "tcp_user_timeout": 15_000,
    "client_encoding": "utf8",
    "fallback_application_name": "credential-broker",
}

# Durable on the primary at least; a server that waits for its standbys to apply stays that careful.
_SETTINGS: Final = """
SELECT set_config('synchronous_commit',
                  CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END,
                  false),
       set_config('statement_timeout', %(statement)s, false),
       set_config('lock_timeout', %(statement)s, false),
       set_config('idle_in_transaction_session_timeout', %(statement)s, false),
       set_config('jit', 'off', false)
"""
_SERVER: Final = """
SELECT current_setting('server_version_num')::int, pg_is_in_recovery(), current_setting('transaction_read_only'),
       current_setting('fsync'), current_setting('full_page_writes'), current_setting('server_encoding')
"""


def writer_engine(server: Server) -> Engine:
    """Return an engine whose transactions have the head for themselves from their start. It keeps no connection."""
    engine = plain_engine(server)

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        # Under READ COMMITTED, what was committed before the lock was granted is seen by all that follows.
        connection.exec_driver_sql("SELECT FROM head FOR UPDATE")

    return engine


def reader_engine(server: Server) -> Engine:
    """Return an engine for a few threads whose transactions see one state of the database and cannot write."""
    engine = create_engine(_DRIVER, creator=lambda: connect(server), poolclass=QueuePool, hide_parameters=True)
    return engine.execution_options(**_ONE_STATE)


def plain_engine(server: Server) -> Engine:
    """Return an engine that keeps no connection, for work on a whole ledger: making, migrating, looking at it."""
    return create_engine(_DRIVER, creator=lambda: connect(server), **_ALONE)


def offline_engine(server: Server) -> Engine:
    """Return an engine like that of readers, which keeps no connection, and for which a standby will do."""
    engine = create_engine(_DRIVER, creator=lambda: _connect(server, target_session_attrs="any"), **_ALONE)
    return engine.execution_options(**_ONE_STATE)


def connect(server: Server, **options: Any) -> psycopg.Connection[Any]:  # noqa: ANN401 - passed on to the driver
    """Begin a session that can write. Raises ``Unavailable`` for a server that is refused, or without a driver."""
    connection = _connect(server, **options)
    try:
        _set_up(connection, server)
    except BaseException:
        connection.close()
        raise
    return connection


def refusal(
    version: int, *, in_recovery: bool, read_only: bool, unsafe: bool, encoding: str, allow_unsafe: bool
) -> str | None:
    """Return why a server cannot hold a ledger, in public words; None if it can."""
    if version < OLDEST * _VERSION:
        return f"PostgreSQL {OLDEST} or newer is needed; this is {version // _VERSION}"
    if encoding != "UTF8":
        return f"the database is encoded as {encoding}; it must be UTF8"
    if in_recovery or read_only:
        return "the database is read-only: this is a standby, or it was set so"
    if unsafe and not allow_unsafe:
        return "the server may lose what it has confirmed: fsync or full_page_writes is off"
    return None


def _connect(server: Server, **options: Any) -> psycopg.Connection[Any]:  # noqa: ANN401 - as above
    try:
        import psycopg  # noqa: PLC0415 - optional: not everybody's ledger is in PostgreSQL

        from broker.ledger.databases.bounded_session import BoundedSession  # noqa: PLC0415 - as it
    except ImportError as error:
        text = "a ledger in PostgreSQL needs psycopg: pip install 'credential-broker[postgresql]'"
        raise Unavailable(Code.LEDGER_UNAVAILABLE, text) from error

    if "," in str(psycopg.conninfo.conninfo_to_dict(server.url).get("host", "")):
        # Of several hosts the one that can be written to. Of one, it is ours to say that it cannot.
        options = {"target_session_attrs": "read-write", **options}
    settings = {**_NETWORK, "connect_timeout": max(2, round(server.connect_seconds)), **options}
    session = BoundedSession.connect(server.url, **settings)
    # The server gives a statement up first, if it can, and says so.
    session.patience = server.statement_seconds + server.connect_seconds
    return session


def _set_up(connection: psycopg.Connection[Any], server: Server) -> None:
    milliseconds = str(round(server.statement_seconds * 1000))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(_SETTINGS, {"statement": milliseconds})
        row = cursor.execute(_SERVER).fetchone()
    connection.autocommit = False
    if row is None:  # a SELECT without FROM has one row
        raise Unavailable(Code.LEDGER_UNAVAILABLE, "the server does not say what it is")
    version, in_recovery, read_only, fsync, full_pages, encoding = row
    why = refusal(
        version,
        in_recovery=in_recovery,
        read_only=read_only == "on",
        unsafe="off" in {fsync, full_pages},
        encoding=encoding,
        allow_unsafe=server.allow_unsafe,
    )
    if why is not None:
        raise Unavailable(Code.LEDGER_UNAVAILABLE, f"the ledger cannot be used now: {why}")
