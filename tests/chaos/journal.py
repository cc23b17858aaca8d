"""What clients write down, and how others read it while it grows: JSON Lines, one file for each writer.

| ``what`` | members besides | written |
|---|---|---|
| ``received`` | ``jwt``, ``at`` | when a token has arrived |
| ``accepted`` | ``by``, ``token``, ``began``, ``ended`` | when a place has accepted a token |
| ``refused`` | ``by``, ``token``, ``began``, ``ended``, ``code`` | when it refuses one that it accepted before, or anew |
| ``revoked`` | ``key``, ``token``, ``selector``, ``id``, ``rule``, ``durable``, ``applied``, ``told``, ``began``, ``ended`` | when a call was answered |
| ``fault`` | ``name``, ``target``, ``began``, ``ended`` | when a fault is over |

Moments are ``time.monotonic()``, which all processes of a machine share.
"""  # noqa: E501 - a table

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

SUFFIX: Final = ".jsonl"

_READ: Final = 1 << 20


class Journal:
    """Appends lines. Each is one write, so that a process that is killed leaves whole lines."""

    def __init__(self, folder: Path, name: str) -> None:
        """Go on with the file of this name, or begin it."""
        self._file = os.open(folder / f"{name}{SUFFIX}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, what: str, **members: object) -> None:
        """Append a line."""
        os.write(self._file, json.dumps({"what": what, **members}).encode() + b"\n")


class Tail:
    """Reads a journal as it grows."""

    def __init__(self, path: Path) -> None:
        """``path`` need not exist yet."""
        self._path = path
        self._place = 0

    def new(self) -> list[dict[str, Any]]:
        """Return the whole lines that were written since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._place)
                text = file.read(_READ)
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._place += len(whole)
        return [json.loads(line) for line in whole.splitlines()]
