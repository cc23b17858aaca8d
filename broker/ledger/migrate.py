"""Bring a ledger's schema to this version, and make a new one."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, insert, select

from broker.core.errors import Code, Unavailable
from broker.core.merkle import Frontier
from broker.ledger import schema, statements

_SCRIPTS: Final = Path(__file__).parent / "migrations"


def migrate(engine: Engine) -> None:
    """Apply the migrations that are missing, in one transaction.

    Raises :class:`Unavailable` (``LEDGER_CORRUPT``) when there is no ledger in the file, which must not become an empty
    one unnoticed, or when its schema is one that this version does not know.
    """
    with engine.begin() as connection:
        statements.of(connection).prepare_schema(connection)
        if not MigrationContext.configure(connection).get_current_heads():
            raise Unavailable(Code.LEDGER_CORRUPT, "there is no ledger in it")
        _upgrade(connection)


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
    if MigrationContext.configure(connection).get_current_heads():
        raise Unavailable(Code.LEDGER_UNAVAILABLE, "there is a ledger already")
    _upgrade(connection)


def newest_revision() -> str:
    """Return the revision of the schema that this version makes."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


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


def _upgrade(connection: Connection) -> None:
    config = _config(connection=connection)
    scripts = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(connection).get_current_heads()
    if current == tuple(scripts.get_heads()):
        return
    known = {script.revision for script in scripts.walk_revisions()}
    if not known.issuperset(current):
        if statements.of(connection).ALLOWS_NEWER_SCHEMA:
            ledger_id(connection)  # raises if its meaning is another one, too
            return
        text = f"the ledger's schema {', '.join(current)} is newer than this version of the broker"
        raise Unavailable(Code.LEDGER_CORRUPT, text)
    command.upgrade(config, "head")
    statements.of(connection).finish_schema(connection)


def _config(**attributes: object) -> Config:
    config = Config(attributes=attributes)
    # A percent sign would be read as the start of an interpolation.
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return config
