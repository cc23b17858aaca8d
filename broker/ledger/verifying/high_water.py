"""How far this ledger ever was, kept beside it: the last signed checkpoint, by which a restored older ledger shows.

The file is no proof against anybody who can write beside the ledger. It is for the operator who restores a backup of
the database alone, so that it is not gone on with by accident.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Final

from broker.core.entry import MAX_INT
from broker.core.merkle import HASH_SIZE
from broker.core.tree_head import KnownHead

SAYS: Final = "the checkpoint beside the ledger"
"""How the file is called where somebody is told of it."""

_MAX_NOTE: Final = 4096
_LINES: Final = 3


class HighWater:
    """The file ``<ledger>.checkpoint``. Not thread-safe."""

    def __init__(self, ledger: Path) -> None:
        """Nothing is read before :meth:`known`."""
        self._path = ledger.with_name(f"{ledger.name}.checkpoint")

    def known(self) -> dict[str, KnownHead]:
        """Return the size and root of the checkpoint beside the ledger, under its name, if it can be read."""
        try:
            with self._path.open() as file:
                lines = file.read(_MAX_NOTE).splitlines()
            size, root = int(lines[1]), base64.b64decode(lines[_LINES - 1], validate=True)
        except (OSError, ValueError, IndexError, binascii.Error):
            return {}
        return {SAYS: KnownHead(size, root)} if 0 <= size <= MAX_INT and len(root) == HASH_SIZE else {}

    def rise(self, note: str) -> None:
        """Keep a newer checkpoint. A ledger that is behind the one that is kept makes none."""
        waiting = self._path.with_name(f"{self._path.name}.new")
        try:
            waiting.write_text(note)
            waiting.replace(self._path)
        except OSError:
            return  # it is a help, not a condition
