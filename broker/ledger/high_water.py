"""How far this ledger ever was, kept beside it: the last signed checkpoint, by which a restored older ledger shows.

The file is no proof against anybody who can write beside the ledger. It is for the operator who restores a backup of
the database alone, so that nothing that was recorded after it is ended by surprise.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, select

from broker.ledger import schema

_MAX_NOTE: Final = 4096
_LINES: Final = 3


class HighWater:
    """The file ``<ledger>.checkpoint``. Not thread-safe."""

    def __init__(self, ledger: Path) -> None:
        """Nothing is read before :meth:`look`."""
        self._path = ledger.with_name(f"{ledger.name}.checkpoint")
        self.is_behind = False
        """Whether the ledger is older than the checkpoint beside it, and nobody has confirmed that yet."""

    def look(self, connection: Connection, size: int) -> None:
        """Compare the ledger, of ``size`` entries, with the checkpoint beside it, if that can be read."""
        known = self._read()
        if known is not None:
            self.is_behind = known[0] > size or not _had(connection, *known)

    def rise(self, note: str) -> None:
        """Keep a newer checkpoint, unless the ledger is behind the one that is kept."""
        if self.is_behind:
            return
        waiting = self._path.with_name(f"{self._path.name}.new")
        try:
            waiting.write_text(note)
            waiting.replace(self._path)
        except OSError:
            return  # it is a help, not a condition

    def accept(self) -> None:
        """Take the ledger as it is from now on, also after a restart: the newer checkpoint is forgotten."""
        self.is_behind = False
        try:
            self._path.unlink(missing_ok=True)
        except OSError:
            return  # the next checkpoint takes its place, or the next start asks again

    def _read(self) -> tuple[int, bytes] | None:
        try:
            with self._path.open() as file:
                lines = file.read(_MAX_NOTE).splitlines()
            return int(lines[1]), base64.b64decode(lines[_LINES - 1], validate=True)
        except (OSError, ValueError, IndexError, binascii.Error):
            return None


def _had(connection: Connection, size: int, root: bytes) -> bool:
    """Whether the ledger had this root when it had this many entries, as far as its own checkpoints say."""
    if size == 0:
        return True
    table = schema.checkpoints.c
    stored: bytes | None = connection.scalar(select(table.root).where(table.size == size))
    return stored == root
