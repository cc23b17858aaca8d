"""Notice that the database file was swapped, overwritten, truncated or removed under the running processes.

SQLite keeps pages in memory and trusts them as long as nobody *went through SQLite*; it would go on writing to a file
that is no longer there. Only the writers write to the database file, each in its turn, and only when they open it,
close it, or copy the log back. So any other change of the file's size or time is somebody else's.

What the files were last is on the board that the writers share. The files are looked at by name and never opened here:
closing any descriptor of the database would drop SQLite's locks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from broker.core.errors import Code, Unavailable
from broker.ledger.sharing.board import Board, Word

_WORD: Final = 2**64 - 1
_MESSAGE: Final = "the ledger's files were changed by something else than the broker; it must be checked and restarted"


@dataclass(frozen=True, slots=True)
class _Seen:
    device: int
    inode: int
    size: int
    changed: int


class FileWatch:
    """Compares the files with what they were when a writer last left them. All methods belong inside of a turn."""

    def __init__(self, path: Path, board: Board) -> None:
        """``board`` is shared by all who write to the database at ``path``."""
        self._path = path
        self._log = Path(f"{path}-wal")
        self._board = board

    def check(self) -> None:
        """Raise :class:`Unavailable` (``LEDGER_CORRUPT``) if somebody else changed the files."""
        if not self._board[Word.SETTLED]:
            self._accept()  # whoever was about to change them did not come to its end
            return
        try:
            untouched = _look(self._path) == self._database() and self._log_is_ours()
        except OSError:
            untouched = False
        if not untouched:
            _refuse()

    def committed(self) -> None:
        """Remember the log as it is after our own transaction.

        Raises :class:`Unavailable` (``LEDGER_CORRUPT``) if the files were changed while the transaction ran: then it
        went into files that nobody will find again, such as a log that was deleted and that only SQLite still has open.
        """
        self.check()
        try:
            self._note_log(_look(self._log))
        except OSError:
            _refuse()

    @contextmanager
    def rearranging(self) -> Iterator[None]:
        """Take the files for ours as they are at the end of the context, around what we do to them.

        Raises :class:`Unavailable` (``LEDGER_CORRUPT``) if the database is another file by then, or shrank.
        """
        self._board[Word.SETTLED] = 0
        yield
        self._accept()

    @property
    def log_size(self) -> int:
        """How many bytes the write-ahead log had when it was last looked at."""
        return self._board[Word.LOG_SIZE]

    def _accept(self) -> None:
        try:
            database = _look(self._path)
            log = _look_if_there(self._log)
        except OSError:
            _refuse()
        before = self._database()
        same = (database.device, database.inode) == (before.device, before.inode)
        if before.inode and (not same or database.size < before.size):
            _refuse()
        board = self._board
        board[Word.DATABASE_DEVICE], board[Word.DATABASE_INODE] = database.device, database.inode
        board[Word.DATABASE_SIZE], board[Word.DATABASE_TIME] = database.size, database.changed
        self._note_log(log)
        board[Word.SETTLED] = 1

    def _database(self) -> _Seen:
        board = self._board
        return _Seen(
            board[Word.DATABASE_DEVICE],
            board[Word.DATABASE_INODE],
            board[Word.DATABASE_SIZE],
            board[Word.DATABASE_TIME],
        )

    def _note_log(self, log: _Seen | None) -> None:
        board = self._board
        device, inode, size = (0, 0, 0) if log is None else (log.device, log.inode, log.size)
        board[Word.LOG_DEVICE], board[Word.LOG_INODE], board[Word.LOG_SIZE] = device, inode, size

    def _log_is_ours(self) -> bool:
        """Whether the log is the one we wrote: losing it would lose what was acknowledged."""
        board = self._board
        if not board[Word.LOG_INODE]:
            return True
        log = _look(self._log)
        same = (log.device, log.inode) == (board[Word.LOG_DEVICE], board[Word.LOG_INODE])
        return same and log.size >= board[Word.LOG_SIZE]


def _refuse() -> NoReturn:
    raise Unavailable(Code.LEDGER_CORRUPT, _MESSAGE)


def _look(path: Path) -> _Seen:
    status = os.stat(path)  # noqa: PTH116 - twice per batch; Path.stat costs twice as much
    return _Seen(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns & _WORD)


def _look_if_there(path: Path) -> _Seen | None:
    try:
        return _look(path)
    except FileNotFoundError:
        return None
