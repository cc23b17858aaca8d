"""Verify a whole ledger file without a broker: everything that is stored is derived again from the entries' bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from broker.core.entry import columns_of, decode
from broker.core.errors import Code, Unavailable
from broker.core.merkle import HASH_SIZE, Frontier, leaf_hash
from broker.ledger import schema
from broker.ledger.derived import Derived
from broker.ledger.derived_nodes import DerivedNodes
from broker.ledger.derived_personal import DerivedPersonal
from broker.ledger.failures import is_store_failure, unavailable
from broker.ledger.sqlite import integrity_problems, offline_engine, schema_problems

MAX_PROBLEMS: Final = 100
"""How many problems are reported in words; all are counted."""

_PIECE: Final = 1000

OpenNote = Callable[[str], tuple[int, bytes]]
"""Verifies a signed note and returns the size and root it speaks of. Raises ``ValueError`` if it is not good."""


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


@dataclass(slots=True)
class _Found:
    """The problems so far."""

    count: int = 0
    texts: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.count += 1
        if len(self.texts) < MAX_PROBLEMS:
            self.texts.append(text)


@dataclass(slots=True)
class _Claim:
    """A size and root that somebody wrote down: the tree at that size must have this root."""

    size: int
    root: bytes
    says: str


def verify_file(
    path: Path, *, open_note: OpenNote | None = None, progress: Callable[[int, int], None] | None = None
) -> Report:
    """Verify a ledger file, which a broker may be using at the same time.

    ``open_note`` verifies signatures of checkpoints. ``progress`` is called with the number of entries done and of all.
    Raises :class:`Unavailable` if the file cannot be read as a ledger at all.
    """
    if not path.is_file():
        raise Unavailable(Code.LEDGER_UNAVAILABLE, f"there is no ledger at {path}")
    engine = _engine(path)
    try:
        with engine.begin() as connection:
            return _Verification(connection, open_note, progress).run()
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


class _Verification:
    """One run over one state of the ledger."""

    def __init__(
        self, connection: Connection, open_note: OpenNote | None, progress: Callable[[int, int], None] | None
    ) -> None:
        self._connection = connection
        self._open_note = open_note
        self._progress = progress
        self._found = _Found()
        self._derived = Derived()
        self._nodes = DerivedNodes()
        self._personal = DerivedPersonal()
        self._frontier = Frontier()
        self._checkpoints = 0
        self._signatures = 0

    def run(self) -> Report:
        meta = self._connection.execute(select(schema.meta)).one_or_none()
        head = self._connection.execute(select(schema.head)).one_or_none()
        if meta is None or head is None:
            raise Unavailable(Code.LEDGER_CORRUPT, "this is not a ledger: it has no head or no identity")
        try:
            self._verify(head)
        except DBAPIError as error:
            # Not readable to the end: say so beside what was found until then.
            self._found.add(f"the database file itself is damaged ({type(error.orig).__name__}): {error.orig}")
        except (ValueError, TypeError, ArithmeticError):
            self._found.add("the database file itself is damaged: it holds values that its columns cannot have")
        return Report(
            ledger=str(meta.ledger),
            size=self._frontier.size,
            root=self._frontier.root(),
            epoch=self._derived.epoch,
            checkpoints=self._checkpoints,
            signatures=self._signatures,
            problem_count=self._found.count,
            problems=tuple(self._found.texts),
        )

    def _verify(self, head: Any) -> None:  # noqa: ANN401 - a row of the head table, whose values are not trusted
        for problem in integrity_problems(self._connection):
            self._found.add(f"the database file itself is damaged: {problem}")
        for problem in schema_problems(self._connection):
            self._found.add(problem)
        claims = list(self._claims())
        self._verify_entries(claims, head.size)
        self._verify_head(head)
        for problem in self._personal.compare():
            self._found.add(problem)
        for part in (self._derived, self._nodes):
            for problem in part.compare(self._connection):
                self._found.add(problem)

    def _claims(self) -> Iterator[_Claim]:
        """Return the checkpoints by size, after verifying their signatures."""
        for row in self._connection.execute(select(schema.checkpoints).order_by(schema.checkpoints.c.size)):
            self._checkpoints += 1
            says = f"the checkpoint of {row.size} entries"
            if row.note is not None and self._open_note is not None:
                try:
                    signed = self._open_note(row.note)
                except ValueError as error:
                    self._found.add(f"{says} has no good signature: {error}")
                else:
                    self._signatures += 1
                    if signed != (row.size, row.root):
                        self._found.add(f"{says} was signed for another size or root than is stored with it")
            yield _Claim(row.size, row.root, says)

    def _verify_entries(self, claims: list[_Claim], total: int) -> None:
        columns = ", ".join(schema.ENTRY_COLUMNS)
        sql = f"SELECT {columns} FROM entries ORDER BY seq"  # noqa: S608 - our own names
        rows = self._connection.exec_driver_sql(sql)
        expected = 0
        due = iter(claims)
        claim = self._settle(next(due, None), due)
        for piece in rows.partitions(_PIECE):
            leaves: list[bytes] = []
            for row in piece:
                expected = self._verify_place(row[0], expected)
                leaves.append(self._verify_entry(row))
                if claim is not None and claim.size <= self._frontier.size + len(leaves):
                    self._append(leaves)
                    leaves = []
                    claim = self._settle(claim, due)
            self._append(leaves)
            if self._progress is not None:
                self._progress(self._frontier.size, total)
        while claim is not None:
            self._found.add(f"{claim.says} is of more entries than there are ({self._frontier.size})")
            claim = next(due, None)

    def _append(self, leaves: list[bytes]) -> None:
        self._frontier, completed = self._frontier.extend(leaves)
        self._nodes.take(completed)

    def _settle(self, claim: _Claim | None, due: Iterator[_Claim]) -> _Claim | None:
        """Compare the claims that the entries so far can decide; return the next one that they cannot."""
        while claim is not None and claim.size <= self._frontier.size:
            if claim.size < 0 or (claim.size == self._frontier.size and claim.root != self._frontier.root()):
                self._found.add(f"{claim.says} has another root than the entries have")
            claim = next(due, None)
        return claim

    def _verify_place(self, seq: int, expected: int) -> int:
        """Report entries that are missing before this one; return the place that comes next."""
        if seq != expected:
            missing = f"entry {expected} is" if seq == expected + 1 else f"entries {expected} to {seq - 1} are"
            self._found.add(f"{missing} missing" if seq > expected else f"entry {seq} is out of place")
        return seq + 1

    def _verify_entry(self, row: Any) -> bytes:  # noqa: ANN401 - a row whose values are not trusted
        """Verify one entry alone; return its leaf as stored, so that the tree is judged apart from the entry."""
        seq, leaf, body = row[0], row[1], row[-2]
        if not isinstance(body, bytes):
            self._found.add(f"entry {seq}: its body is not bytes")
        else:
            if leaf_hash(body) != leaf:
                self._found.add(f"entry {seq}: its bytes do not have the hash that was stored with them")
            self._verify_body(seq, body, row)
        return leaf if isinstance(leaf, bytes) and len(leaf) == HASH_SIZE else bytes(HASH_SIZE)

    def _verify_body(self, seq: int, body: bytes, row: Any) -> None:  # noqa: ANN401 - as above
        try:
            leaf = decode(body)
        except (ValueError, TypeError) as error:
            self._found.add(f"entry {seq}: its bytes are not an entry ({error})")
            return
        try:
            members = self._personal.take(seq, leaf, row[-1])
        except ValueError as error:
            self._found.add(f"entry {seq}: {error}")
            members = leaf
        columns = columns_of(members)
        wrong = [
            name
            for name, stored in zip(schema.ENTRY_COLUMNS[2:-2], row[2:-2], strict=True)
            if getattr(columns, name) != stored
        ]
        if wrong:
            self._found.add(f"entry {seq}: the columns {', '.join(wrong)} differ from the entry itself")
        self._derived.take(seq, members)

    def _verify_head(self, head: Any) -> None:  # noqa: ANN401 - a row whose values are not trusted
        if head.size != self._frontier.size:
            self._found.add(f"the head counts {head.size} entries, but there are {self._frontier.size}")
        elif head.frontier != self._frontier.to_bytes():
            self._found.add("the head's hashes differ from those of the entries: entries were changed or replaced")
        if head.epoch != self._derived.epoch:
            self._found.add(f"the head is at epoch {head.epoch}, but {self._derived.epoch} rules were recorded")
