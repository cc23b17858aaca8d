"""The one connection of this process that writes: each transaction is built on a head that continues the known one.

The recovery path is the normal path: after any failure the connection is thrown away, and the next transaction opens a
new one and compares the head that it finds with the head that it knows. What was added meanwhile, by another process or
by a batch of our own whose COMMIT raised, is caught up with before anything is judged, by looking at what is there. Not
thread-safe: one thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import Connection, Engine

from broker.core.errors import Code, Unavailable
from broker.ledger.databases.failures import in_doubt, is_store_failure, unavailable
from broker.ledger.sharing.catching_up import changes, require_continuation
from broker.ledger.sharing.head import Head
from broker.ledger.sharing.memory import Effects
from broker.ledger.sharing.premises import Premises
from broker.ledger.writing.batch import Outcome, Proposal, Written, write_batch
from broker.ports import Clock

T = TypeVar("T")


class _CommitFailed(Exception):
    """COMMIT itself raised, or the files were not ours any more after it, for ``reason``."""

    def __init__(self, reason: Exception) -> None:
        super().__init__()
        self.reason = reason


class Writer:
    """Runs write transactions, and knows the head as of the last one."""

    def __init__(self, engine: Engine, premises: Premises, head: Head, clock: Clock, *, margin: float) -> None:
        """``head`` is what the database held when its state was read; others may have added to it since.

        ``margin`` (seconds) is how long rules outlive what they hit.
        """
        self._engine = engine
        self._premises = premises
        self._head = head
        self._clock = clock
        self._margin = margin
        self._connection: Connection | None = None
        self._condemned: Unavailable | None = None
        self._effects: list[Effects] = []
        self.trouble: str | None = None
        """Why the last transaction failed, in public words; None if it did not."""

    @property
    def condemned(self) -> Unavailable | None:
        """Why nothing is written any more; None if something can be."""
        return self._condemned

    def condemn(self, reason: Unavailable) -> None:
        """Write nothing from the next transaction on, for this reason."""
        self._condemned = reason
        self.trouble = reason.public

    def absolve(self) -> None:
        """Write again: what was known against the ledger does not hold any more."""
        self._condemned = None
        self.trouble = None

    @property
    def head(self) -> Head:
        """The head as of the last transaction that is known to be durable."""
        return self._head

    def apply(self, proposals: Sequence[Proposal]) -> Sequence[Outcome]:
        """Apply a batch in one transaction and return what became of each change, in their order. Never raises."""
        try:
            outcomes = self._apply(proposals)
        except _CommitFailed as failed:
            self.settle()
            self.trouble = in_doubt(failed.reason).public
            return [in_doubt(failed.reason) for _ in proposals]
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the thread goes on
            if isinstance(error, Unavailable) or is_store_failure(error):
                self.trouble = unavailable(error).public
            elif len(proposals) > 1:
                # One change has what the database refuses: find out which, so that the others do not suffer.
                return [outcome for proposal in proposals for outcome in self.apply([proposal])]
            return [unavailable(error) for _ in proposals]
        self.trouble = None
        return outcomes

    def run(self, work: Callable[[Connection], T]) -> T:
        """Run something else in a write transaction of its own: it must not touch entries, head or rules.

        Raises :class:`Unavailable` if it was not applied or may not have been.
        """
        try:
            result = self._transact(work)
        except Exception as error:
            failure = in_doubt(error.reason) if isinstance(error, _CommitFailed) else unavailable(error)
            self.trouble = failure.public
            raise failure from error
        self.trouble = None
        return result

    @property
    def log_is_long(self) -> bool:
        """Whether the log is so long that it must be copied back even if there is other work."""
        return self._premises.log_is_long

    def settle(self) -> None:
        """Catch up with what is durable, if possible now: a batch in doubt, and what others have written."""
        try:
            self._transact(lambda _: None)
        except Exception as error:  # noqa: BLE001 - it stays in doubt, and the next transaction looks again
            self.trouble = unavailable(error).public

    def take_effects(self) -> Sequence[Effects]:
        """Return what became durable since the last call, in its order, whoever wrote it."""
        effects, self._effects = self._effects, []
        return effects

    def copy_back(self) -> None:
        """Copy the log back into the database. Failures show in the next transaction.

        The files are checked before, since what they become is taken as ours afterwards.
        """
        if self._connection is None:
            return
        with self._premises.turn():
            try:
                self._check()
                self._premises.copy_back(self._connection)
            except Exception:  # noqa: BLE001 - nothing is lost: the log keeps everything
                self._discard()

    def empty_log(self) -> bool:
        """Copy the log back and cut it to nothing; whether that was possible now. Raises :class:`Unavailable`."""
        with self._premises.turn():
            try:
                self._check()
                return self._premises.empty_log(self._connected())
            except Exception as error:
                self._discard()
                raise unavailable(error) from error

    def close(self) -> None:
        """Close the connection; the last one of a database also copies its log back."""
        with self._premises.turn():
            self._discard()
        self._engine.dispose()

    def _apply(self, proposals: Sequence[Proposal]) -> Sequence[Outcome]:
        def work(connection: Connection) -> Written:
            written = write_batch(connection, self._head, proposals, self._margin)
            if written.head.changed != self._head.changed:
                # Before it is so: from the moment on that it is, no process may judge by what it knew before.
                self._premises.announce(written.head.changed)
            return written

        done = self._transact(work)
        self._head = done.head
        self._effects.append(done.effects)
        return done.outcomes

    def _transact(self, work: Callable[[Connection], T]) -> T:
        """Check the ground, begin, work, commit; after any failure the connection is gone and nothing half done."""
        with self._premises.turn():
            try:
                self._check()
                connection = self._connected()
                transaction = connection.begin()
                self._catch_up(connection)
                result = work(connection)
            except Exception:
                self._discard()
                raise
            try:
                transaction.commit()
                self._or_condemned(self._premises.committed)
            except Exception as error:
                self._discard()
                raise _CommitFailed(error) from error
        return result

    def _check(self) -> None:
        if self._condemned is not None:
            raise self._condemned
        self._or_condemned(self._premises.check)

    def _connected(self) -> Connection:
        if self._connection is None:
            with self._premises.connecting():
                self._connection = self._engine.connect()
        return self._connection

    def _catch_up(self, connection: Connection) -> None:
        """Take what others have added, or we ourselves without knowing; refuse what does not continue the known."""
        found = self._or_condemned(lambda: Head.read(connection))
        self._premises.announce(found.changed)
        known = self._head
        if found != known:
            self._or_condemned(lambda: require_continuation(connection, known, found))
            effects = self._or_condemned(lambda: changes(connection, known.epoch, known.size, found, self._clock.now()))
            self._effects.append(effects)
            self._head = found

    def _or_condemned(self, look: Callable[[], T]) -> T:
        """Look at the ground; if it is not what it must be, write nothing any more."""
        try:
            return look()
        except Unavailable as error:
            if error.code is Code.LEDGER_CORRUPT:
                self._condemned = error
            raise

    def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._condemned is not None:
            _close(connection)  # what that makes of the files is nothing that anybody may build on
            return
        try:
            with self._premises.disconnecting():
                _close(connection)
        except Unavailable as error:
            self._condemned = error


def _close(connection: Connection) -> None:
    try:
        connection.invalidate()
        connection.close()
    except Exception:  # noqa: BLE001, S110 - it is being thrown away because it is broken
        pass
