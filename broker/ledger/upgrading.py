"""Bring the schema of a ledger up to date without opening it."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from broker.core.errors import Code, Unavailable
from broker.ledger.databases.engines import migrating_engine
from broker.ledger.databases.failures import unavailable
from broker.ledger.migrate import migrate, revision
from broker.ledger.sharing.taking import take_premises
from broker.ports import Clock, Place


def upgrade(place: Place, clock: Clock) -> tuple[str | None, str | None]:
    """Apply the migrations that are missing; return the revision before and after.

    A file must not be in use; replicas may go on meanwhile. Raises :class:`Unavailable`.
    """
    if isinstance(place, Path) and not place.is_file():
        raise Unavailable(Code.LEDGER_UNAVAILABLE, f"there is no ledger at {place}")
    premises = take_premises(place, clock)
    engine = migrating_engine(place)
    try:
        before = _revision(engine)
        migrate(place)
        return before, _revision(engine)
    except DBAPIError as error:
        raise unavailable(error) from error
    finally:
        engine.dispose()
        premises.close()


def _revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        return revision(connection)
