"""Move a ledger from a file into a database: every row of every table, in one transaction, verified on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Table, func, insert, select
from sqlalchemy.exc import DBAPIError

from broker.core.errors import Code, Unavailable
from broker.ledger import schema
from broker.ledger.databases.engines import migrating_engine, offline_engine
from broker.ledger.databases.failures import unavailable
from broker.ledger.migrate import make_schema, migrate
from broker.ledger.sharing.file_premises import FilePremises
from broker.ledger.verify import Report, verify_file
from broker.ports import Clock, Server

MOVED: Final = ".moved"
"""What the name of a file ends with whose ledger is somewhere else now."""

_PIECE: Final = 2000


def move(path: Path, server: Server, clock: Clock) -> Report:
    """Move the ledger in a file, which no broker may be using, to where there is none; return how it verifies there.

    The file is renamed at the end, so that nobody goes on with it by accident. Raises :class:`Unavailable`, with
    ``LEDGER_CORRUPT`` if it is not sound on either side; then the file stays what it is.
    """
    if not path.is_file():
        raise Unavailable(Code.LEDGER_UNAVAILABLE, f"there is no ledger at {path}")
    premises = FilePremises.take(path, clock, None)
    try:
        migrate(path)
        _require_sound(verify_file(path), "this ledger is damaged, and was not moved")
        _copy(path, server)
        report = verify_file(server)
        _require_sound(report, "the ledger does not verify where it was moved to; go on with the file")
        path.rename(path.with_name(path.name + MOVED))
    except DBAPIError as error:
        raise unavailable(error) from error
    finally:
        premises.close()
    return report


def _require_sound(report: Report, otherwise: str) -> None:
    if not report.sound:
        raise Unavailable(Code.LEDGER_CORRUPT, f"{otherwise}: {report.problems[0]}")


def _copy(path: Path, server: Server) -> None:
    target = migrating_engine(server)  # which keeps no connection
    with offline_engine(path).connect() as source, target.begin() as destination:
        make_schema(destination)
        for table in schema.metadata.sorted_tables:
            _copy_table(source, destination, table)
            before, after = (_count(each, table) for each in (source, destination))
            if before != after:
                raise Unavailable(Code.LEDGER_CORRUPT, f"{before} rows of {table.name} became {after}")


def _copy_table(source: Connection, destination: Connection, table: Table) -> None:
    for piece in source.execute(select(table)).partitions(_PIECE):
        rows: Sequence[dict[str, object]] = [dict(row._mapping) for row in piece]  # noqa: SLF001 - its public name
        destination.execute(insert(table), rows)


def _count(connection: Connection, table: Table) -> int:
    return connection.scalar(select(func.count()).select_from(table)) or 0
