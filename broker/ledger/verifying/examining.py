"""Examine a ledger piece by piece, as the broker does with its own while it runs.

What is checked is the same as when a ledger is verified (:mod:`broker.ledger.verify`), by the same parts. That one goes
through one state of any source, in several processes, and tells how far each entry can be trusted. This one goes on in
short steps of one process, on a connection that it is given for each, and comes to a verdict.

The pieces may be of one state of the ledger, or of later and later ones: entries are only ever added, so those that
were gone through stay as they are. What else is stored is held against the entries at the end, in one state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, Row, select
from sqlalchemy.exc import DBAPIError

from broker.core.entry import Kind, decode
from broker.core.soundness import Fault, Unsound
from broker.core.tree_head import KnownHead
from broker.ledger import schema
from broker.ledger.databases import statements
from broker.ledger.databases.failures import may_pass
from broker.ledger.verifying.checking import check_loaded
from broker.ledger.verifying.claims import Claims, OpenNote
from broker.ledger.verifying.course import Course
from broker.ledger.verifying.database import tile_roots
from broker.ledger.verifying.derived_personal import opened
from broker.ledger.verifying.growing import stored_ids, told_since
from broker.ledger.verifying.outside import accepted_heads
from broker.ledger.verifying.report import Contradiction, Found
from broker.ledger.verifying.stored import Loaded, stored
from broker.ledger.verifying.tables import epoch_problems, head_problems, node_problems, state_problems
from broker.ledger.verifying.tree import Claim, Tree

_PIECE: Final = 1000
_BEFORE_ALL: Final = -(2**63)
_AFTER_ALL: Final = 2**63 - 1


class Examination:
    """What was found so far. Pieces are examined one after the other; not thread-safe."""

    def __init__(self, open_note: OpenNote | None, outside: Mapping[str, KnownHead], *, growing: bool = False) -> None:
        """``open_note`` verifies signatures of checkpoints; ``outside`` is what others know, by what it is called.

        Of a ledger that is ``growing`` meanwhile, what is added after the beginning is left to the next examination.
        """
        self.found = Found()
        self.contradictions: Sequence[Contradiction] = ()
        """What is known outside and does not fit; told at the end."""
        self.entries = 0
        """How many entries were gone through."""
        self.is_readable = True
        """Whether the database could be read so far; if not, what would come after is not looked at."""
        self._growing = growing
        self._claims = Claims(open_note, self.found)
        self._outside = [
            Claim(head.size, head.root, says, vouches=True, elsewhere=True) for says, head in outside.items()
        ]
        self._course = Course(Tree(), self.found)
        self._next = _BEFORE_ALL
        self._until = _AFTER_ALL
        self._head: Row[Any] | None = None
        self._claimed = _BEFORE_ALL

    def begin(self, connection: Connection) -> None:
        """Let the database look through its own file, compare its schema with the one it should have, take the head."""
        with self._reading():
            self._head = connection.execute(select(schema.head)).one_or_none()
            if self._growing and self._head is not None:
                self._until = self._head.size
                self._course.derived.remember(stored_ids(connection))
            self.found.add_all(statements.of(connection).integrity_problems(connection))
            self.found.add_all(statements.of(connection).schema_problems(connection))
            self._course.tree = Tree(self._outside, tile_roots(connection))

    def step(self, connection: Connection, limit: int) -> int:
        """Examine the next entries, ``limit`` at most, and the checkpoints among them; return how many there were.

        Raises the store's own error if it may pass by itself: the same step can be made again.
        """
        rows: Sequence[Any] = ()
        if self.is_readable:
            with self._reading():
                rows = statements.of(connection).read_entries(connection, self._next, self._until, limit)
                self._claim(connection, rows[-1][0] + 1 if rows else self._course.tree.size)
                self._take(rows)
        return len(rows)

    def finish(self, connection: Connection) -> None:
        """Compare what is not an entry with the entries, all of which must have been examined.

        Of entries that were added since the beginning, those are taken at their word on which other tables depend. If
        something personal was erased meanwhile, these tables wait for the next examination.
        """
        if self.is_readable:
            with self._reading():
                erased = self._take_added(connection)
                if self._growing:  # checkpoints of what was added since are not looked at
                    self._claimed = max(self._claimed, connection.scalar(select(schema.head.c.size)) or 0)
                self._claim(connection, _AFTER_ALL)
                self.contradictions = self._course.finish(accepted_heads(connection))
                self.found.add_all(head_problems(self._course, self._head))
                self.found.add_all(node_problems(connection, self._course, self._until if self._growing else None))
                self.found.add_all(epoch_problems(connection, self._course))
                if not erased:
                    self.found.add_all(self._course.personal.compare())
                    self.found.add_all(state_problems(connection, self._course))

    def all_of(self, connection: Connection) -> None:
        """Examine everything, in one state."""
        self.begin(connection)
        while self.step(connection, _PIECE):
            pass
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

    def _claim(self, connection: Connection, size: int) -> None:
        """Take up the checkpoints of up to ``size`` entries that were not looked at yet."""
        self._course.tree.expect(self._claims.of_database(connection, self._claimed, size))
        self._claimed = max(self._claimed, size)

    def _take(self, rows: Sequence[Any]) -> None:
        if rows:
            self._next = rows[-1][0] + 1
            self.entries += len(rows)
            entries = [stored(row) for row in rows]
            self._course.take(check_loaded(Loaded(entries)))

    def _take_added(self, connection: Connection) -> bool:
        """Take the entries at their word that were added since the beginning and on which other tables depend.

        Returns whether something was erased meanwhile: then rows may lack what entries still had when they were read.
        """
        erased = False
        self._course.derived.remember(None)
        for seq, body, personal in connection.execute(told_since(self._until)) if self._growing else ():
            try:
                leaf = decode(body)
                erased = erased or leaf["kind"] == Kind.PERSONAL_ERASED
                self._course.hear(seq, opened(leaf, personal))
            except (ValueError, TypeError) as error:
                self.found.add(f"entry {seq}: its bytes are not an entry ({error})")
        return erased
