"""Verify a whole ledger file without a broker: everything that is stored is derived again from the entries' bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import SQLAlchemyError

from broker.core.errors import Code, Unavailable
from broker.core.tree_head import KnownHead
from broker.ledger import schema
from broker.ledger.examining import Contradiction, Examination, OpenNote
from broker.ledger.failures import is_store_failure, unavailable
from broker.ledger.sqlite import offline_engine


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. ``problems`` are in plain words, without any content of entries; none means sound.

    ``size``, ``root`` and ``epoch`` are computed from the entries, not read from the head. ``signatures`` is how many
    checkpoints' signatures were verified.
    """

    ledger: str
    size: int
    root: bytes
    epoch: int
    checkpoints: int
    signatures: int
    problem_count: int
    problems: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing at all was wrong."""
        return self.problem_count == 0


def verify_file(
    path: Path,
    *,
    open_note: OpenNote | None = None,
    outside: Mapping[str, KnownHead] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Verify a ledger file, which a broker may be using at the same time.

    ``open_note`` verifies signatures of checkpoints; ``outside`` is what was kept elsewhere, by what it is called.
    ``progress`` is called with the number of entries done and of all.
    Raises :class:`Unavailable` if the file cannot be read as a ledger at all.
    """
    if not path.is_file():
        raise Unavailable(Code.LEDGER_UNAVAILABLE, f"there is no ledger at {path}")
    engine = _engine(path)
    try:
        with engine.connect() as connection:  # without a commit, which a damaged file may refuse
            return _examined(connection, Examination(open_note, outside or {}), progress)
    except SQLAlchemyError as error:
        if is_store_failure(error):
            raise unavailable(error) from error
        raise Unavailable(Code.LEDGER_CORRUPT, "this is not a ledger: its tables are missing") from error
    except UnicodeDecodeError as error:  # what SQLite has to say about a damaged schema quotes it
        raise Unavailable(Code.LEDGER_CORRUPT, "this is not a ledger: its schema is damaged") from error
    finally:
        engine.dispose()


def _engine(path: Path) -> Engine:
    """Open the file so that nothing beside it is made or changed, unless a broker has it open.

    A ledger in use has a log, through which it must be read. A log that is left beside a file that nobody uses is read,
    too: it holds what was committed last.
    """
    return offline_engine(path, immutable=not Path(f"{path}-wal").exists())


def _examined(connection: Connection, examination: Examination, progress: Callable[[int, int], None] | None) -> Report:
    """Examine the whole of one state of the ledger."""
    meta = connection.execute(select(schema.meta)).one_or_none()
    head = connection.execute(select(schema.head)).one_or_none()
    if meta is None or head is None:
        raise Unavailable(Code.LEDGER_CORRUPT, "this is not a ledger: it has no head or no identity")
    examination.all_of(connection, lambda done: None if progress is None else progress(done, head.size))
    for contradiction in examination.contradictions:
        examination.found.add(_told(contradiction))
    return Report(
        ledger=str(meta.ledger),
        size=examination.frontier.size,
        root=examination.frontier.root(),
        epoch=examination.derived.epoch,
        checkpoints=examination.checkpoints,
        signatures=examination.signatures,
        problem_count=examination.found.count,
        problems=tuple(examination.found.texts),
    )


def _told(contradiction: Contradiction) -> str:
    """Return what an auditor is told, who must also hear of what an operator accepted."""
    rule = contradiction.accepted_by
    accepted = "" if rule is None else f"; rule {rule} accepted that as lost, when an older ledger was restored"
    return contradiction.text + accepted
