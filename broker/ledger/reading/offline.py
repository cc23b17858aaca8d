"""Read a ledger without a broker; one that is running may use it at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from broker.core.errors import Code, Unavailable
from broker.ledger.databases.engines import offline_engine
from broker.ledger.databases.failures import is_store_failure, unavailable
from broker.ports import Place

T = TypeVar("T")


def read_file(place: Place, query: Callable[[Connection], T]) -> T:
    """Run a query in one read transaction on a ledger. Raises ``Unavailable`` if it cannot be read as a ledger."""
    try:
        with connected(place) as connection:
            return query(connection)
    except ValueError as error:  # an entry, or a text, that is not one
        raise Unavailable(Code.LEDGER_CORRUPT, "the ledger is damaged; broker ledger verify says how") from error


@contextmanager
def connected(place: Place) -> Iterator[Connection]:
    """Return one read transaction on a ledger. Raises ``Unavailable`` if the database cannot be read as a ledger."""
    try:
        with offline_engine(place).connect() as connection:  # without a commit, which a damaged file may refuse
            yield connection
    except SQLAlchemyError as error:
        if is_store_failure(error):
            raise unavailable(error) from error
        raise Unavailable(Code.LEDGER_CORRUPT, "this is not a ledger: its tables are missing") from error
