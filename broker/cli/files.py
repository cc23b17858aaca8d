"""Files that commands read and write, whole and no longer than they may be."""

from __future__ import annotations

import sys
from pathlib import Path

from broker.cli.outcome import unusable


def read_file(path: Path, what: str, most: int) -> bytes:
    """Return what a file holds, or, for ``-``, standard input. Raises ``Failure`` if it is longer than ``most``."""
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(most + 1)
        else:
            with path.open("rb") as file:
                data = file.read(most + 1)
    except OSError as error:
        raise unusable(f"{what}: {path} cannot be read ({error.strerror})") from error
    if len(data) > most:
        raise unusable(f"{what}: {path} is longer than {most} bytes")
    return data


def read_text(path: Path, what: str, most: int) -> str:
    """Return the text of a file like :func:`read_file`. Raises ``Failure`` if it is none."""
    try:
        return read_file(path, what, most).decode()
    except UnicodeDecodeError as error:
        raise unusable(f"{what}: {path} is not text") from error
