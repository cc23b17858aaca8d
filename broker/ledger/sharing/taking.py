"""Take a ledger for this process, wherever it is."""

from __future__ import annotations

from broker.ledger.sharing.database_premises import DatabasePremises
from broker.ledger.sharing.family import Family
from broker.ledger.sharing.file_premises import FilePremises
from broker.ports import Clock, Place, Server


def take_premises(place: Place, clock: Clock, family: Family | None = None) -> FilePremises | DatabasePremises:
    """Take a file for this process or with the ``family`` that has it; a database is there for everybody.

    Raises :class:`Unavailable` with a text for the operator if another broker has the file.
    """
    return DatabasePremises(place) if isinstance(place, Server) else FilePremises.take(place, clock, family)
