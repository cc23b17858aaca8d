"""What can be said of a ledger at a glance, whether or not a broker is using it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from broker.core.soundness import Unsound
from broker.ledger import schema
from broker.ledger.reading.offline import read_file
from broker.ledger.verifying.first_look import first_verdict
from broker.ledger.verifying.high_water import HighWater
from broker.ledger.verifying.last_check import LastCheck, LastCheckFile
from broker.ports import Place, beside


@dataclass(frozen=True, slots=True)
class Status:
    """A ledger as its head has it, the size of its youngest checkpoint, and the last complete check, if there was any.

    ``unsound`` is what a first look found, or else what the last complete check did.
    """

    entries: int | None
    epoch: int | None
    checkpoint: int | None
    last_check: LastCheck | None
    unsound: Unsound | None


def status_of(place: Place) -> Status:
    """Return the status of a ledger. Raises ``Unavailable`` if it cannot be read as a ledger at all."""
    known, last_check = HighWater(beside(place)).known(), LastCheckFile(beside(place)).read()

    def query(connection: Connection) -> Status:
        head = connection.execute(select(schema.head)).one_or_none()
        unsound = first_verdict(connection, known)
        return Status(
            entries=None if head is None else head.size,
            epoch=None if head is None else head.epoch,
            checkpoint=connection.scalar(select(func.max(schema.checkpoints.c.size))),
            last_check=last_check,
            unsound=unsound if unsound is not None or last_check is None else last_check.unsound,
        )

    return read_file(place, query)
