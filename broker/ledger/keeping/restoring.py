"""Go on with an older ledger that was put in the place of a newer one. Offline: no broker may be running on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from broker.core.change import Change, Receipt, StoredKey
from broker.core.errors import Code, Unavailable
from broker.core.tree_head import KnownHead
from broker.ledger.databases.engines import writer_engine
from broker.ledger.databases.failures import unavailable
from broker.ledger.migrate import migrate
from broker.ledger.reading import records
from broker.ledger.sharing.head import Head
from broker.ledger.sharing.premises import Premises
from broker.ledger.sharing.taking import take_premises
from broker.ledger.store import RULE_MARGIN
from broker.ledger.verifying.claims import OpenNote
from broker.ledger.verifying.examining import Examination
from broker.ledger.verifying.high_water import HighWater
from broker.ledger.verifying.last_check import LastCheck, LastCheckFile
from broker.ledger.writing.batch import Proposal
from broker.ledger.writing.writer import Writer
from broker.ports import Clock, Place, beside


@dataclass(frozen=True, slots=True)
class Situation:
    """A ledger that is sound in itself: its head and epoch, and what others know that does not fit it.

    ``lost`` is by what it is called, ``told`` the same in words; what was accepted before is not among it.
    """

    head: KnownHead
    epoch: int
    lost: Mapping[str, KnownHead]
    told: tuple[str, ...]


class RestoredLedger:
    """A ledger that this process has for itself. Use :func:`taken`."""

    def __init__(self, place: Place, engine: Engine, premises: Premises, clock: Clock) -> None:
        """``premises`` are those of the ledger, and are held."""
        self._beside = beside(place)
        self._engine = engine
        self._premises = premises
        self._clock = clock

    def keys(self) -> Sequence[StoredKey]:
        """Return the broker's keys. Raises ``Unavailable``."""
        try:
            with self._engine.begin() as connection:
                return records.keys(connection)
        except DBAPIError as error:
            raise unavailable(error) from error

    def examine(self, open_note: OpenNote, known: Mapping[str, KnownHead]) -> Situation:
        """Go through everything, with what others know of it besides the checkpoint beside it.

        Raises ``Unavailable``, with ``LEDGER_CORRUPT`` if the ledger is not sound in itself: no operator can accept
        that, another backup is needed.
        """
        everything = {**HighWater(self._beside).known(), **known}
        examination = Examination(open_note, everything)
        with self._engine.begin() as connection:
            examination.all_of(connection)
            if examination.found.count:
                text = f"this ledger is damaged itself, another backup is needed: {examination.found.texts[0]}"
                raise Unavailable(Code.LEDGER_CORRUPT, text)
            head = Head.read(connection)
        unfit = [each for each in examination.contradictions if each.accepted_by is None]
        return Situation(
            head=KnownHead(head.frontier.size, head.frontier.root()),
            epoch=head.epoch,
            lost={each.says: everything[each.says] for each in unfit},
            told=tuple(each.text for each in unfit),
        )

    def accept(self, change: Change) -> Receipt:
        """Commit the change by which the ledger is gone on with. Raises ``BrokerError`` if it is not durable."""
        with self._engine.begin() as connection:
            head = Head.read(connection)
        writer = Writer(self._engine, self._premises, head, self._clock, margin=RULE_MARGIN)
        try:
            [outcome] = writer.apply([Proposal.of(change)])
        finally:
            writer.close()
        if not isinstance(outcome, Receipt):
            raise outcome
        LastCheckFile(self._beside).write(LastCheck(at=self._clock.now(), entries=outcome.seq + 1))
        return outcome


@contextmanager
def taken(place: Place, clock: Clock) -> Iterator[RestoredLedger]:
    """Take a ledger for this process, and give it back. Raises ``Unavailable`` if a broker has it, or it is none."""
    if isinstance(place, Path) and not place.is_file():
        raise Unavailable(Code.LEDGER_UNAVAILABLE, f"there is no ledger at {place}")
    premises = take_premises(place, clock)
    engine = writer_engine(place)
    try:
        migrate(place)
        yield RestoredLedger(place, engine, premises, clock)
    except DBAPIError as error:
        raise unavailable(error) from error
    finally:
        engine.dispose()
        premises.close()
