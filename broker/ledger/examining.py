"""Examine a ledger piece by piece: everything that is stored is derived again from the entries' bytes.

The pieces may be of one state of the ledger, or of later and later ones: entries are only ever added, so those that
were gone through stay as they are. What else is stored is held against the entries at the end, in one state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Row, select
from sqlalchemy.exc import DBAPIError

from broker.core.entry import Kind, decode
from broker.core.merkle import HASH_SIZE, Frontier, leaf_hash
from broker.core.soundness import Fault, Unsound
from broker.core.tree_head import KnownHead
from broker.ledger import schema
from broker.ledger.derived import Derived
from broker.ledger.derived_nodes import DerivedNodes
from broker.ledger.derived_personal import DerivedPersonal
from broker.ledger.failures import may_pass
from broker.ledger.growing import stored_ids, told_since
from broker.ledger.outside import accepted_heads
from broker.ledger.sqlite import integrity_problems, read_entries, schema_problems

MAX_PROBLEMS: Final = 100
"""How many problems are reported in words; all are counted."""

OpenNote = Callable[[str], tuple[int, bytes]]
"""Verifies a signed note and returns the size and root it speaks of. Raises ``ValueError`` if it is not good."""

_PIECE: Final = 1000
_BEFORE_ALL: Final = -(2**63)
_AFTER_ALL: Final = 2**63 - 1
_COLUMNS: Final = schema.ENTRY_COLUMNS[2:-2]


@dataclass(slots=True)
class Found:
    """The problems so far, in plain words, without any content of entries."""

    count: int = 0
    texts: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Take up a problem."""
        self.count += 1
        if len(self.texts) < MAX_PROBLEMS:
            self.texts.append(text)


@dataclass(frozen=True, slots=True)
class _Claim:
    """A size and root that somebody wrote down: the tree at that size must have this root.

    ``says`` names who, such as ``the checkpoint of 812 entries``; ``outside`` is whether that is not the ledger itself.
    """

    size: int
    root: bytes
    says: str
    outside: bool = False


@dataclass(frozen=True, slots=True)
class Contradiction:
    """What ``says`` knows does not fit. ``accepted_by`` is the rule by which an operator accepted that, if any."""

    says: str
    text: str
    accepted_by: int | None


class Examination:
    """What was found so far. Pieces are examined one after the other; not thread-safe."""

    def __init__(self, open_note: OpenNote | None, outside: Mapping[str, KnownHead], *, growing: bool = False) -> None:
        """``open_note`` verifies signatures of checkpoints; ``outside`` is what others know, by what it is called.

        Of a ledger that is ``growing`` meanwhile, what is added after the beginning is left to the next examination.
        """
        self._open_note = open_note
        self._growing = growing
        self._outside = [_Claim(head.size, head.root, says, outside=True) for says, head in outside.items()]
        self._unfit: list[tuple[_Claim, str]] = []
        self._next = _BEFORE_ALL
        self._until = _AFTER_ALL
        self._head: Row[Any] | None = None
        self._expected = 0
        self._claimed = _BEFORE_ALL
        self.is_readable = True
        """Whether the database could be read so far; if not, what would come after is not looked at."""
        self.found = Found()
        self.contradictions: tuple[Contradiction, ...] = ()
        """What is known outside and does not fit; told at the end."""
        self.derived = Derived()
        self._nodes = DerivedNodes()
        self._personal = DerivedPersonal()
        self.frontier = Frontier()
        self.checkpoints = 0
        self.signatures = 0

    def begin(self, connection: Connection) -> None:
        """Let the database look through its own file, compare its schema with the one it should have, take the head."""
        with self._reading():
            self._head = connection.execute(select(schema.head)).one_or_none()
            if self._growing and self._head is not None:
                self._until = self._head.size
                self.derived.remember(stored_ids(connection))
            for problem in integrity_problems(connection):
                self.found.add(f"the database file itself is damaged: {problem}")
            for problem in schema_problems(connection):
                self.found.add(problem)

    def step(self, connection: Connection, limit: int) -> int:
        """Examine the next entries, ``limit`` at most, and the checkpoints among them; return how many there were.

        Raises the store's own error if it may pass by itself: the same step can be made again.
        """
        rows: Sequence[Any] = ()
        if self.is_readable:
            with self._reading():
                rows = read_entries(connection, self._next, self._until, limit)
                claims = self._claims_up_to(connection, self.frontier.size + len(rows))
                if rows:
                    self._next = rows[-1][0] + 1
                    self._take(rows, claims)
        return len(rows)

    def finish(self, connection: Connection) -> None:
        """Compare what is not an entry with the entries, all of which must have been examined.

        Of entries that were added since the beginning, those are taken at their word on which other tables depend. If
        something personal was erased meanwhile, these tables wait for the next examination.
        """
        if self.is_readable:
            with self._reading():
                self._settle(self._claims_beyond(connection), to_the_end=True)
                accepted = accepted_heads(connection)
                self.contradictions = tuple(
                    Contradiction(claim.says, text, accepted.get(KnownHead(claim.size, claim.root)))
                    for claim, text in self._unfit
                )
                self._compare_head()
                erased = self._take_added(connection)
                self._compare_epoch(connection)
                for problem in self._nodes.compare(connection, self.frontier.size if self._growing else None):
                    self.found.add(problem)
                for problem in () if erased else (*self._personal.compare(), *self.derived.compare(connection)):
                    self.found.add(problem)

    def all_of(self, connection: Connection, progress: Callable[[int], None] = lambda _: None) -> None:
        """Examine everything, in one state. ``progress`` is told how many entries were gone through."""
        self.begin(connection)
        while self.step(connection, _PIECE):
            progress(self.frontier.size)
        self.finish(connection)

    def verdict(self) -> Unsound | None:
        """Return what is wrong, once everything was examined, but for what an operator accepted."""
        if self.found.count:
            return Unsound(Fault.DAMAGED, tuple(self.found.texts))
        behind = tuple(each.text for each in self.contradictions if each.accepted_by is None)
        return Unsound(Fault.BEHIND, behind) if behind else None

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Take it for a problem if the database cannot be read, unless that may pass by itself."""
        try:
            yield
        except DBAPIError as error:
            if may_pass(error):
                raise
            # Not readable to the end: that is said beside what was found until then.
            self.found.add(f"the database file itself is damaged ({type(error.orig).__name__}): {error.orig}")
            self.is_readable = False
        except (ValueError, TypeError, ArithmeticError):
            self.found.add("the database file itself is damaged: it holds values that its columns cannot have")
            self.is_readable = False

    # --- what is claimed of the tree --------------------------------------------------------------------------------

    def _claims_up_to(self, connection: Connection, size: int) -> deque[_Claim]:
        """Return the claims about trees of up to ``size`` entries that were not looked at yet, by size."""
        table = schema.checkpoints.c
        query = select(table.size, table.root, table.note).where(table.size > self._claimed, table.size <= size)
        claims = [self._checkpoint(row) for row in connection.execute(query)]
        claims += [claim for claim in self._outside if self._claimed < claim.size <= size]
        self._claimed = size
        return deque(sorted(claims, key=lambda claim: claim.size))

    def _claims_beyond(self, connection: Connection) -> deque[_Claim]:
        """Return the claims about more entries than there were, but for checkpoints of what was added since."""
        beyond = [claim for claim in self._outside if claim.size > self._claimed]
        if self._growing:
            self._claimed = max(self._claimed, connection.scalar(select(schema.head.c.size)) or 0)
        self._outside = []
        return self._claims_up_to(connection, _AFTER_ALL) + deque(beyond)

    def _checkpoint(self, row: Any) -> _Claim:  # noqa: ANN401 - a row whose values are not trusted
        """Return what a stored checkpoint claims, after verifying its signature."""
        self.checkpoints += 1
        says = f"the checkpoint of {row.size} entries"
        if row.note is not None and self._open_note is not None:
            try:
                signed = self._open_note(row.note)
            except ValueError as error:
                self.found.add(f"{says} has no good signature: {error}")
            else:
                self.signatures += 1
                if signed != (row.size, row.root):
                    self.found.add(f"{says} was signed for another size or root than is stored with it")
        return _Claim(row.size, row.root, says)

    def _settle(self, claims: deque[_Claim], *, to_the_end: bool = False) -> None:
        """Compare the claims that the entries so far can decide: all of them, if there are no more entries."""
        size = self.frontier.size
        while claims and (to_the_end or claims[0].size <= size):
            claim = claims.popleft()
            if claim.size > size:
                self._refute(claim, f"{claim.says} is of more entries than there are ({size})")
            elif claim.size < 0 or (claim.size == size and claim.root != self.frontier.root()):
                self._refute(claim, f"{claim.says} has another root than the entries have")

    def _refute(self, claim: _Claim, text: str) -> None:
        if claim.outside:
            self._unfit.append((claim, text))
        else:
            self.found.add(text)

    # --- entries ----------------------------------------------------------------------------------------------------

    def _take(self, rows: Sequence[Any], claims: deque[_Claim]) -> None:
        self._settle(claims)
        leaves: list[bytes] = []
        for row in rows:
            self._check_place(row[0])
            leaves.append(self._check_entry(row))
            if claims and claims[0].size <= self.frontier.size + len(leaves):
                self._append(leaves)
                leaves = []
                self._settle(claims)
        self._append(leaves)

    def _append(self, leaves: list[bytes]) -> None:
        self.frontier, completed = self.frontier.extend(leaves)
        self._nodes.take(completed)

    def _check_place(self, seq: int) -> None:
        """Report entries that are missing before this one."""
        expected, self._expected = self._expected, seq + 1
        if seq != expected:
            missing = f"entry {expected} is" if seq == expected + 1 else f"entries {expected} to {seq - 1} are"
            self.found.add(f"{missing} missing" if seq > expected else f"entry {seq} is out of place")

    def _check_entry(self, row: Any) -> bytes:  # noqa: ANN401 - as above
        """Check one entry alone; return its leaf as stored, so that the tree is judged apart from the entry."""
        seq, leaf, body = row[0], row[1], row[-2]
        if not isinstance(body, bytes):
            self.found.add(f"entry {seq}: its body is not bytes")
        else:
            if leaf_hash(body) != leaf:
                self.found.add(f"entry {seq}: its bytes do not have the hash that was stored with them")
            self._check_body(seq, body, row)
        return leaf if isinstance(leaf, bytes) and len(leaf) == HASH_SIZE else bytes(HASH_SIZE)

    def _check_body(self, seq: int, body: bytes, row: Any) -> None:  # noqa: ANN401 - as above
        try:
            leaf = decode(body)
        except (ValueError, TypeError) as error:
            self.found.add(f"entry {seq}: its bytes are not an entry ({error})")
            return
        try:
            members = self._personal.take(seq, leaf, row[-1])
        except ValueError as error:
            self.found.add(f"entry {seq}: {error}")
            members = leaf
        if row[2:-2] != tuple(map(members.get, _COLUMNS)):
            pairs = zip(_COLUMNS, row[2:-2], strict=True)
            wrong = ", ".join(name for name, stored in pairs if members.get(name) != stored)
            self.found.add(f"entry {seq}: the columns {wrong} differ from the entry itself")
        self.derived.take(seq, members)

    def _take_added(self, connection: Connection) -> bool:
        """Take the entries at their word that were added since the beginning and on which other tables depend.

        Returns whether something was erased meanwhile: then rows may lack what entries still had when they were read.
        """
        erased = False
        self.derived.remember(None)
        for seq, body, stored in connection.execute(told_since(self._until)) if self._growing else ():
            try:
                leaf = decode(body)
                erased = erased or leaf["kind"] == Kind.PERSONAL_ERASED
                self.derived.take(seq, self._personal.take(seq, leaf, stored))
            except (ValueError, TypeError) as error:
                self.found.add(f"entry {seq}: its bytes are not an entry ({error})")
        return erased

    # --- the head ---------------------------------------------------------------------------------------------------

    def _compare_head(self) -> None:
        """Compare the head as it was in the beginning."""
        head = self._head
        if head is None:
            self.found.add("the ledger has no head")
        elif head.size != self.frontier.size:
            self.found.add(f"the head counts {head.size} entries, but there are {self.frontier.size}")
        elif head.frontier != self.frontier.to_bytes():
            self.found.add("the head's hashes differ from those of the entries: entries were changed or replaced")

    def _compare_epoch(self, connection: Connection) -> None:
        epoch, recorded = connection.scalar(select(schema.head.c.epoch)), self.derived.epoch
        if epoch not in {None, recorded}:
            self.found.add(f"the head is at epoch {epoch}, but the recorded rules come to {recorded}")
