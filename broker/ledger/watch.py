"""Notice that the database file was swapped, overwritten, truncated or removed under the running process.

SQLite keeps pages in memory and trusts them as long as nobody *went through SQLite*; it would go on writing to a file
that is no longer there. Only the writer of this process writes to the database file, and only when it copies the log
back, so any other change of the file's size or time is somebody else's.

The file is looked at by name and never opened here: closing any descriptor of it would drop SQLite's locks.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker.core.errors import Code, Unavailable

_MESSAGE: Final = "the ledger's files were changed by something else than the broker; it must be checked and restarted"


@dataclass(frozen=True, slots=True)
class _Seen:
    device: int
    inode: int
    size: int
    changed: int


class FileWatch:
    """Compares the files with what they were when this process last wrote them."""

    def __init__(self, path: Path) -> None:
        """Look at the files for the first time. Raises ``OSError`` if the database is not there."""
        self._path = path
        self._log = Path(f"{path}-wal")
        self._database = _look(path)
        self._log_seen = _look_if_there(self._log)

    def check(self) -> None:
        """Raise :class:`Unavailable` (``LEDGER_CORRUPT``) if somebody else changed the files."""
        try:
            untouched = _look(self._path) == self._database and self._log_is_ours()
        except OSError:
            untouched = False
        if not untouched:
            raise Unavailable(Code.LEDGER_CORRUPT, _MESSAGE)

    def accept_log(self) -> None:
        """Remember the log as it is after our own transaction.

        Raises :class:`Unavailable` (``LEDGER_CORRUPT``) if the files were changed while the transaction ran: then it
        went into files that nobody will find again, such as a log that was deleted and that only SQLite still has open.
        """
        self.check()
        try:
            self._log_seen = _look(self._log)
        except OSError as error:
            raise Unavailable(Code.LEDGER_CORRUPT, _MESSAGE) from error

    def accept(self) -> None:
        """Remember both files as they are, after our own connection was opened or copied the log back.

        Raises :class:`Unavailable` (``LEDGER_CORRUPT``) if the database is another file than before, or shrank.
        """
        try:
            database = _look(self._path)
        except OSError as error:
            raise Unavailable(Code.LEDGER_CORRUPT, _MESSAGE) from error
        same = (database.device, database.inode) == (self._database.device, self._database.inode)
        if not same or database.size < self._database.size:
            raise Unavailable(Code.LEDGER_CORRUPT, _MESSAGE)
        self._database = database
        self._log_seen = _look_if_there(self._log)

    @property
    def log_size(self) -> int:
        """How many bytes the write-ahead log had when it was last looked at."""
        return 0 if self._log_seen is None else self._log_seen.size

    def _log_is_ours(self) -> bool:
        """Whether the log is the one we wrote: losing it would lose what was acknowledged."""
        if self._log_seen is None:
            return True
        log, seen = _look(self._log), self._log_seen
        return (log.device, log.inode) == (seen.device, seen.inode) and log.size >= seen.size


def _look(path: Path) -> _Seen:
    status = os.stat(path)  # noqa: PTH116 - twice per batch; Path.stat costs twice as much
    return _Seen(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _look_if_there(path: Path) -> _Seen | None:
    try:
        return _look(path)
    except FileNotFoundError:
        return None
