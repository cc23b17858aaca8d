"""Bring a ledger's schema to this version, and make a new one.

Alembic is loaded only where something is to be migrated: that takes a tenth of the time of a start.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, column, insert, inspect, select, table

from broker.core.errors import Code, Unavailable
from broker.core.merkle import Frontier
from broker.ledger import schema
from broker.ledger.databases import statements
from broker.ledger.databases.engines import migrating_engine
from broker.ledger.databases.sqlite import BUSY_SECONDS
from broker.ports import Place

_SCRIPTS: Final = Path(__file__).parent / "migrations"
_VERSIONS: Final = table("alembic_version", column("version_num"))


def migrate(place: Place, busy_seconds: float = BUSY_SECONDS) -> None:
    """Apply the migrations that are missing to a ledger, in one transaction.

    Raises :class:`Unavailable` (``LEDGER_CORRUPT``) when there is no ledger at the place, which must not become an
    empty one unnoticed, or when its schema is one that this version does not know; and what the database raises.
    """
    engine = migrating_engine(place, busy_seconds)
    try:
        with engine.begin() as connection:
            statements.of(connection).prepare_schema(connection)
            current = _revisions(connection)
            if not current:
                raise Unavailable(Code.LEDGER_CORRUPT, "there is no ledger in it")
            if current != (schema.REVISION,):
                _upgrade(connection, current)
    finally:
        engine.dispose()  # the last connection to a file also copies its log back


def create_schema(engine: Engine, now: float) -> str:
    """Make all tables and the first rows of a new ledger in one transaction; return the ledger's random id."""
    ledger = secrets.token_hex(16)
    empty = Frontier()
    first = {"one": 1, "ledger": ledger, "compatibility": schema.COMPATIBILITY, "created_at": now}
    with engine.begin() as connection:
        make_schema(connection)
        connection.execute(insert(schema.head).values(one=1, size=0, frontier=empty.to_bytes(), epoch=0, changed=0))
        connection.execute(insert(schema.meta).values(first))
    return ledger


def make_schema(connection: Connection) -> None:
    """Make all tables, none of which has a row. Raises :class:`Unavailable` if there is a ledger already."""
    statements.of(connection).prepare_schema(connection)
    if _revisions(connection):
        raise Unavailable(Code.LEDGER_UNAVAILABLE, "there is a ledger already")
    _upgrade(connection, ())


def revision(connection: Connection) -> str | None:
    """Return the revision of the schema that is there, or None if there is none."""
    return ", ".join(_revisions(connection)) or None


def ledger_id(connection: Connection) -> str:
    """Return the id of a ledger whose data this version understands.

    Raises :class:`Unavailable` (``LEDGER_CORRUPT``) if there is none, or if another version wrote it.
    """
    row = connection.execute(select(schema.meta.c.ledger, schema.meta.c.compatibility)).one_or_none()
    if row is None:
        raise Unavailable(Code.LEDGER_CORRUPT, "the ledger has no identity: it was not made by broker init")
    if row.compatibility != schema.COMPATIBILITY:
        text = f"the ledger was written by another version of the broker (data format {row.compatibility})"
        raise Unavailable(Code.LEDGER_CORRUPT, text)
    return str(row.ledger)


def _revisions(connection: Connection) -> tuple[str, ...]:
    if not inspect(connection).has_table(_VERSIONS.name):
        return ()
    return tuple(connection.scalars(select(_VERSIONS.c.version_num)))


def _upgrade(connection: Connection, current: tuple[str, ...]) -> None:
    from alembic import command  # noqa: PLC0415 - see above
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config(attributes={"connection": connection})
    # A percent sign would be read as the start of an interpolation.
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if not known.issuperset(current):
        if statements.of(connection).ALLOWS_NEWER_SCHEMA:
            ledger_id(connection)  # raises if its meaning is another one, too
            return
        text = f"the ledger's schema {', '.join(current)} is newer than this version of the broker"
        raise Unavailable(Code.LEDGER_CORRUPT, text)
    command.upgrade(config, "head")
    statements.of(connection).finish_schema(connection)
