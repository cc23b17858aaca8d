"""A cursor: a file that holds the next entry to send, and outlives the process."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from broker.durable_files import replace_file

_MAX_FILE: Final = 32
_MAX_DIGITS: Final = 16


class CursorUnusable(Exception):
    """The file is no cursor, or cannot be read or written; the text says which."""


class Cursor:
    """One file. One export at a time may use it."""

    def __init__(self, path: Path) -> None:
        """Nothing is read or written yet."""
        self._path = path

    def read(self) -> int | None:
        """Return the next entry, None if there is no file. Raises :class:`CursorUnusable`."""
        try:
            with self._path.open("rb") as file:
                text = file.read(_MAX_FILE + 1).strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable(f"cannot be read ({error.strerror})") from error
        if not text.isdigit() or len(text) > _MAX_DIGITS:
            raise self._unusable("is not a cursor of an export")
        return int(text)

    def write(self, following: int) -> None:
        """Replace it, durably and at once: a crash leaves the old one or the new one.

        Raises :class:`CursorUnusable`.
        """
        try:
            replace_file(self._path, f"{following}\n".encode())
        except OSError as error:
            raise self._unusable(f"cannot be written ({error.strerror})") from error

    def _unusable(self, problem: str) -> CursorUnusable:
        return CursorUnusable(f"{self._path} {problem}")
