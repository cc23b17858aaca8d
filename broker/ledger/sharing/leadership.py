"""Which of the processes that share a ledger leads; of a file, the one that has the lock on ``<ledger>.leader``.

The kernel gives the lock back when its process ends, however that happens, so that another one can have it at once.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self

from broker.ledger.sharing.database_leadership import DatabaseLeadership
from broker.ports import Place, Server


class SoleLeader:
    """Implements ``Leadership`` for a process that is alone."""

    def leads(self) -> bool:
        """It leads, since there is nobody else."""
        return True

    def close(self) -> None:
        """There is nobody to leave it to."""


class FileLeadership:
    """Implements ``Leadership`` among the processes of one host. Any of them that asks while nobody leads, leads."""

    def __init__(self, descriptor: int) -> None:
        """``descriptor`` is an open file of this process's own: a lock belongs to what was opened."""
        self._descriptor = descriptor
        self._leads = False

    @classmethod
    def beside(cls, ledger: Path) -> Self:
        """Take part. Raises ``OSError`` if there can be no file beside the ledger."""
        return cls(os.open(f"{ledger}.leader", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def leads(self) -> bool:
        """Whether this process leads, now that it has asked."""
        if not self._leads and self._descriptor >= 0:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            self._leads = True
        return self._leads

    def close(self) -> None:
        """Let another process lead. Never leads again."""
        if self._descriptor >= 0:
            self._leads = False
            os.close(self._descriptor)
            self._descriptor = -1


def take_part(place: Place, processes: int) -> SoleLeader | FileLeadership | DatabaseLeadership:
    """Return who leads among the processes of a ledger, of which so many are on this host. Raises ``OSError``."""
    if isinstance(place, Server):
        return DatabaseLeadership(place)
    return SoleLeader() if processes == 1 else FileLeadership.beside(place)
