"""The premises of a ledger file: its lock, its board, and the watch over what is on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, Self

from sqlalchemy import Connection

from broker.ledger.databases import sqlite
from broker.ledger.sharing.board import Board, Word
from broker.ledger.sharing.family import Family
from broker.ledger.sharing.lockfile import LedgerLock
from broker.ledger.sharing.watch import FileWatch
from broker.ports import Clock

COPY_BACK_BYTES: Final = 4 * 1024 * 1024
"""When the write-ahead log is longer than this, it is copied back into the database."""

COPY_BACK_COMMITS: Final = 32
"""But only after so many commits of this process: the log stays as long as it was, and copying costs two fsyncs."""


class FilePremises:
    """Implements ``Premises`` for a process that has the file for itself, and for one of a family."""

    def __init__(self, path: Path, lock: LedgerLock, board: Board) -> None:
        """``lock`` is held, and released with the rest by :meth:`close`."""
        self._lock = lock
        self._board = board
        self._watch = FileWatch(path, board)
        self._commits = 0

    @classmethod
    def take(cls, path: Path, clock: Clock, family: Family | None) -> Self:
        """Take the file for this process, or with the ``family`` that has it.

        Raises :class:`Unavailable` with a text for the operator if another broker has it.
        """
        if family is None:
            return cls(path, LedgerLock.acquire(path, clock), Board.private())
        lock = LedgerLock.join(family.lock, clock)
        try:
            return cls(path, lock, Board.shared(family.board))
        except BaseException:
            lock.release()
            raise

    def turn(self) -> AbstractContextManager[None]:
        """Wait for the other processes of the family."""
        return self._board.turn()

    def check(self) -> None:
        """Raise ``Unavailable`` if another host has taken the ledger, or the files were changed by somebody else."""
        self._lock.check()
        self._watch.check()

    def connecting(self) -> AbstractContextManager[None]:
        """Take for ours what the files are at the end of the context."""
        return self._watch.rearranging()

    @contextmanager
    def disconnecting(self) -> Iterator[None]:
        """Take for ours what the files are by the end, or, if nobody shares them, by the next connection.

        Until then this process may have none of them open. Then whoever uses SQLite on them is the last one to close
        them, and copies the log back.
        """
        with self._watch.rearranging():
            yield
        if not self._board.is_shared:
            self._board[Word.SETTLED] = 0

    def committed(self) -> None:
        """See that the log is still the one that was written to, and remember how long it is."""
        self._watch.committed()
        self._commits += 1

    def announce(self, changed: int) -> None:
        """Put it on the board, if there is anybody to read it."""
        if self._board.is_shared:
            self._board[Word.ANNOUNCED] = changed

    @property
    def announced(self) -> int:
        """How far this process must know the ledger before it judges anything; may be read from any thread."""
        return self._board[Word.ANNOUNCED]

    @property
    def log_is_long(self) -> bool:
        """Whether the log is longer than :data:`COPY_BACK_BYTES`, and :data:`COPY_BACK_COMMITS` went into it."""
        return self._commits >= COPY_BACK_COMMITS and self._watch.log_size >= COPY_BACK_BYTES

    def copy_back(self, connection: Connection) -> None:
        """Copy the log back. What the files become by it is ours, so they must be checked before."""
        self._commits = 0
        with self._watch.rearranging():
            sqlite.copy_back(connection)

    def empty_log(self, connection: Connection) -> bool:
        """Copy the log back and cut it to nothing; whether no reader was in the way."""
        with self._watch.rearranging():
            return sqlite.empty_log(connection)

    def close(self) -> None:
        """Give the file back, or this process's part of it."""
        self._board.close()
        self._lock.release()
