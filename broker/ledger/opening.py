"""Open a ledger: what must be true of the stored state before a broker builds on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from broker.core.errors import BrokerError, Code, Unavailable
from broker.core.merkle import Frontier
from broker.core.rules import Rule
from broker.core.soundness import Fault, Unsound
from broker.ledger.databases.engines import migrating_engine, reader_engine
from broker.ledger.databases.failures import unavailable
from broker.ledger.databases.sqlite import BUSY_SECONDS
from broker.ledger.migrate import create_schema, ledger_id, migrate
from broker.ledger.sharing.head import Head
from broker.ledger.sharing.memory import Effects, load_live, recorded_rules
from broker.ledger.sharing.premises import Premises
from broker.ledger.verifying.examining import Examination
from broker.ledger.verifying.first_look import first_verdict
from broker.ledger.verifying.high_water import HighWater
from broker.ledger.verifying.last_check import LastCheck, LastCheckFile
from broker.ports import Place, beside


@dataclass(frozen=True, slots=True)
class Opened:
    """The state of a ledger at start.

    ``unsound`` says why it must not be built upon, if so; ``is_remembered`` that this is all that is known, from an
    earlier process.
    """

    place: Place
    ledger: str
    head: Head
    effects: Effects
    unsound: Unsound | None
    is_remembered: bool


def create_ledger(place: Place, now: float) -> str:
    """Make a new, empty ledger, a file one so that only this user can read it; return its id.

    Raises :class:`Unavailable` if there is a file or a ledger already, or if it cannot be written.
    """
    if isinstance(place, Path):
        _touch(place)
    engine = migrating_engine(place)
    try:
        return create_schema(engine, now)
    except DBAPIError as error:
        raise unavailable(error) from error
    finally:
        engine.dispose()


def _touch(path: Path) -> None:
    try:
        # Exclusively, so that no existing file is ever overwritten or given a schema.
        path.touch(mode=0o600, exist_ok=False)
    except FileExistsError as error:
        raise Unavailable(Code.LEDGER_UNAVAILABLE, f"there is a file at {path} already") from error
    except OSError as error:
        raise Unavailable(Code.LEDGER_UNAVAILABLE, f"no ledger can be made at {path}: {error.strerror}") from error


def open_ledger(place: Place, premises: Premises, now: float, *, busy_seconds: float = BUSY_SECONDS) -> Opened:
    """Migrate the ledger, take a first look at it, and load what is in force at ``now``.

    Others that share it may go on writing: what they do after it was read is caught up with in the first transaction.
    Of a ledger that must not be built upon, what can be read is still in force. Raises :class:`Unavailable`:
    ``LEDGER_UNAVAILABLE`` if it cannot be used now, ``LEDGER_CORRUPT`` if its rules cannot be read.
    """
    if isinstance(place, Path):
        _require_file(place)
    engine = reader_engine(place, busy_seconds)
    try:
        with premises.turn():
            premises.check()
            with premises.disconnecting():
                migrate(place, busy_seconds)
        with engine.connect() as connection:  # without a commit, which a damaged file may refuse
            ledger, effects = ledger_id(connection), load_live(connection, now)
            head = _head(connection, effects)
            unsound, is_remembered = _soundness(connection, beside(place), now)
            if unsound is not None and unsound.fault is Fault.DAMAGED:
                lost = _lost(connection, effects, head.epoch, now)
                effects = replace(effects, rules=(*effects.rules, *lost))
            return Opened(place, ledger, head, effects, unsound, is_remembered)
    except Unavailable:
        raise
    except DBAPIError as error:
        raise unavailable(error) from error
    except (BrokerError, SQLAlchemyError, ValueError, TypeError) as error:
        raise _corrupt("it holds values that cannot be read") from error
    finally:
        engine.dispose()


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise Unavailable(Code.LEDGER_UNAVAILABLE, f"there is no ledger at {path}; broker init makes one")
    if path.stat().st_size == 0:
        # SQLite would take an empty file for a new database.
        raise _corrupt("its file is empty")


def _soundness(connection: Connection, path: Path, now: float) -> tuple[Unsound | None, bool]:
    """Return what is wrong with a ledger, and whether that is only known from before.

    What the last complete check found damaged is examined completely again, however long that takes. That others knew
    of a newer ledger then, this one alone cannot say whether it still holds.
    """
    known = HighWater(path).known()
    if (unsound := first_verdict(connection, known)) is not None:
        return unsound, False
    file = LastCheckFile(path)
    before = file.read()
    if before is None or before.unsound is None:
        return None, False
    if before.fault is Fault.BEHIND:
        return before.unsound, True
    examination = Examination(None, known)
    examination.all_of(connection)
    unsound = examination.verdict()
    if unsound is None:
        file.write(LastCheck(at=now, entries=examination.entries))
    return unsound, False


def _head(connection: Connection, effects: Effects) -> Head:
    """Return the head; of a ledger whose head is damaged, one that says no more than the epoch."""
    try:
        return Head.read(connection)
    except Unavailable:
        return Head(Frontier(), max((rule.number or 0 for rule in effects.rules), default=0), 0)


def _lost(connection: Connection, effects: Effects, epoch: int, now: float) -> tuple[Rule, ...]:
    """Return the rules that a damaged ledger has among its entries only, as far as they can be read."""
    try:
        return tuple(recorded_rules(connection, effects.rules, epoch, now))
    except DBAPIError:
        return ()


def _corrupt(what: str) -> Unavailable:
    return Unavailable(Code.LEDGER_CORRUPT, f"the ledger is damaged: {what}")
