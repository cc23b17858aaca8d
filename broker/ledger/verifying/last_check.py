"""What the last complete check of a ledger came to, kept beside it, so that a restart does not forget what was found.

The file is a note of the broker to itself and its operator. Whoever can write beside the ledger can remove it; then the
next check finds again what is wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from broker.core.soundness import Fault, Unsound

MAX_FILE: Final = 1024 * 1024


class LastCheck(msgspec.Struct, frozen=True):
    """When (Unix seconds), over how many entries, and what was wrong."""

    at: float
    entries: int
    fault: Fault | None = None
    problems: tuple[str, ...] = ()

    @property
    def unsound(self) -> Unsound | None:
        """What was wrong, or None."""
        return None if self.fault is None else Unsound(self.fault, self.problems)


class LastCheckFile:
    """The file ``<ledger>.check``."""

    def __init__(self, ledger: Path) -> None:
        """Nothing is read yet."""
        self._path = ledger.with_name(f"{ledger.name}.check")

    def read(self) -> LastCheck | None:
        """Return what it says; None if there is none that can be read."""
        try:
            with self._path.open("rb") as file:
                return msgspec.json.decode(file.read(MAX_FILE), type=LastCheck)
        except (OSError, msgspec.DecodeError):
            return None

    def write(self, check: LastCheck) -> None:
        """Put it there, readable by its owner alone, as far as the disk lets us."""
        waiting = self._path.with_name(f"{self._path.name}.new")
        try:
            waiting.touch(mode=0o600)
            waiting.write_bytes(msgspec.json.encode(check))
            waiting.replace(self._path)
        except OSError:
            return  # the check itself is in force, and is made again after a restart
