"""A file or a pipe as a receiver: one line an entry."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

from broker.delivery.receiver import Accepted, Line, Outcome


class LinesReceiver:
    """Writes lines. ``durable`` says that ``out`` is a file, to be written to the disk each time."""

    window: Final = 0
    broken: Final = False

    def __init__(self, out: BinaryIO, *, durable: bool) -> None:
        """``out`` stays the caller's to close."""
        self._out = out
        self._durable = durable

    async def send(self, lines: Sequence[Line]) -> Outcome:
        """Write lines. Raises ``OSError``."""
        self._out.write("".join(f"{line.text}\n" for line in lines).encode())
        self._out.flush()
        if self._durable:
            os.fsync(self._out.fileno())
        return Accepted()

    async def finish(self) -> bool:
        """Return True: what was written is there."""
        return True


def appending(path: Path) -> BinaryIO:
    """Open a file to append to, for its owner alone if it is new; a line that a crash left torn is ended first.

    Raises ``OSError``.
    """
    out = os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "r+b")
    if out.seek(0, os.SEEK_END) > 0:
        out.seek(-1, os.SEEK_END)
        if out.read(1) != b"\n":
            out.write(b"\n")
    return out
