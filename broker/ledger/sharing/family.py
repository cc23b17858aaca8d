"""A family: the processes of one host that serve one ledger file together.

One process, the elder, takes the file for all of them and stays for as long as any of them; it need not open the
ledger. It hands two descriptors down to those that do. All of them end without it if it dies: the lock stays theirs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from broker.ledger.sharing.board import Board
from broker.ledger.sharing.lockfile import LedgerLock
from broker.ports import Clock


@dataclass(frozen=True, slots=True)
class Family:
    """What a process needs to be one of a family: the descriptors of the lock and of the board."""

    lock: int
    board: int

    @property
    def descriptors(self) -> tuple[int, int]:
        """What a child process must inherit, under the same numbers (``pass_fds`` of ``subprocess``)."""
        return self.lock, self.board


class Elder:
    """Holds a ledger file for a family, from :meth:`take` to :meth:`release`."""

    def __init__(self, lock: LedgerLock, board: int) -> None:
        """Use :meth:`take`."""
        self._lock = lock
        self.family = Family(lock.descriptor, board)

    @classmethod
    def take(cls, path: Path, clock: Clock) -> Self:
        """Take the ledger at ``path``. Raises :class:`Unavailable` if another broker has it."""
        lock = LedgerLock.acquire(path, clock)
        try:
            return cls(lock, Board.create())
        except BaseException:
            lock.release()
            raise

    def check(self) -> None:
        """Raise :class:`Unavailable` (``LEDGER_CORRUPT``) if another host has taken the ledger."""
        self._lock.check()

    def release(self) -> None:
        """Give the ledger back. Call it after the last of the others has ended."""
        os.close(self.family.board)
        self._lock.release()
