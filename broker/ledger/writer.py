"""The one connection that writes: each transaction is built on exactly the head that this process knows.

The recovery path is the normal path: after any failure the connection is thrown away, and the next transaction opens a
new one and compares the head that it finds with the head that it expects. Not thread-safe: one thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from sqlalchemy import Connection, Engine

from broker.core.errors import Code, Unavailable
from broker.ledger import sqlite
from broker.ledger.batch import Head, Outcome, Proposal, Written, write_batch
from broker.ledger.failures import in_doubt, is_store_failure, unavailable
from broker.ledger.memory import Effects, merged
from broker.ledger.watch import FileWatch

COPY_BACK_BYTES: Final = 4 * 1024 * 1024
"""When the write-ahead log is longer than this, it is copied back into the database."""

T = TypeVar("T")


class Ownership(Protocol):
    """Says whether this process still is the only one that may write."""

    def check(self) -> None:
        """Raise ``Unavailable`` if it is not."""
        ...


@dataclass(frozen=True, slots=True)
class _Doubt:
    """A batch whose COMMIT raised: durable or not, the next look at the head tells."""

    written: Written


class _CommitFailed(Exception):
    """COMMIT itself raised, or the files were not ours any more after it, for ``reason``."""

    def __init__(self, reason: Exception) -> None:
        super().__init__()
        self.reason = reason


class Writer:
    """Runs write transactions, and knows the head as of the last one."""

    def __init__(self, engine: Engine, watch: FileWatch, ownership: Ownership, head: Head, *, margin: float) -> None:
        """``head`` is what the database holds now; ``margin`` (seconds) is how long rules outlive what they hit."""
        self._engine = engine
        self._watch = watch
        self._ownership = ownership
        self._head = head
        self._margin = margin
        self._connection: Connection | None = None
        self._doubt: _Doubt | None = None
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
        return self._watch.log_size >= COPY_BACK_BYTES

    def settle(self) -> None:
        """Find out, if possible now, whether a batch in doubt was applied."""
        try:
            self._transact(lambda _: None)
        except Exception as error:  # noqa: BLE001 - it stays in doubt, and the next transaction asks again
            self.trouble = unavailable(error).public

    def take_effects(self) -> Effects:
        """Return what became durable since the last call, also of batches that were in doubt then."""
        effects, self._effects = self._effects, []
        return effects[0] if len(effects) == 1 else merged(effects)

    def copy_back(self) -> None:
        """Copy the log back into the database. Failures show in the next transaction.

        The files are checked before, since what they become is taken as ours afterwards.
        """
        if self._connection is None:
            return
        try:
            self._check()
            sqlite.copy_back(self._connection)
            self._watch.accept()
        except Exception:  # noqa: BLE001 - nothing is lost: the log keeps everything
            self._discard()

    def empty_log(self) -> bool:
        """Copy the log back and cut it to nothing; whether that was possible now. Raises :class:`Unavailable`."""
        try:
            self._check()
            empty = sqlite.empty_log(self._connected())
            self._watch.accept()
        except Exception as error:
            self._discard()
            raise unavailable(error) from error
        return empty

    def close(self) -> None:
        """Close the connection; the last one of a database also copies its log back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._engine.dispose()

    def _apply(self, proposals: Sequence[Proposal]) -> Sequence[Outcome]:
        written: Written | None = None

        def work(connection: Connection) -> Written:
            nonlocal written
            written = write_batch(connection, self._head, proposals, self._margin)
            return written

        try:
            done = self._transact(work)
        except _CommitFailed:
            self._doubt = None if written is None else _Doubt(written)
            raise
        self._accept(done)
        return done.outcomes

    def _transact(self, work: Callable[[Connection], T]) -> T:
        """Check the ground, begin, work, commit; after any failure the connection is gone and nothing half done."""
        try:
            self._check()
            connection = self._connected()
            transaction = connection.begin()
            self._compare_head(connection)
            result = work(connection)
        except Exception:
            self._discard()
            raise
        try:
            transaction.commit()
            self._accept_log()
        except Exception as error:
            self._discard()
            raise _CommitFailed(error) from error
        return result

    def _check(self) -> None:
        if self._condemned is not None:
            raise self._condemned
        self._ownership.check()
        if self._connection is not None:
            try:
                self._watch.check()
            except Unavailable as error:
                self._condemned = error
                raise

    def _accept_log(self) -> None:
        """Look at the files once more: what was committed to files that are gone is not durable (law 1)."""
        try:
            self._watch.accept_log()
        except Unavailable as error:
            self._condemned = error
            raise

    def _connected(self) -> Connection:
        if self._connection is None:
            connection = self._engine.connect()
            try:
                # What opening did to the files is ours; what happens to them from now on is not.
                self._watch.accept()
            except Unavailable as error:
                connection.close()
                self._condemned = error
                raise
            self._connection = connection
        return self._connection

    def _compare_head(self, connection: Connection) -> None:
        found = Head.read(connection)
        doubt, self._doubt = self._doubt, None
        if found == self._head:
            return
        if doubt is not None and found == doubt.written.head:
            self._accept(doubt.written)
            return
        text = "the ledger is not the one that this process wrote; it must be checked and the broker restarted"
        self._condemned = Unavailable(Code.LEDGER_CORRUPT, text)
        raise self._condemned

    def _accept(self, written: Written) -> None:
        self._head = written.head
        self._effects.append(written.effects)

    def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.invalidate()
            connection.close()
        except Exception:  # noqa: BLE001, S110 - it is being thrown away because it is broken
            pass
