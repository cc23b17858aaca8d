"""Checkpoints as people keep them: a file with one note, with several one after the other, or that of a file anchor.

An anchor's file has a JSON object on each line, whose ``note`` is the checkpoint; a line that a crash left torn is
passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from broker.signing.checkpoint import MAX_NOTE_SIZE, NoteError

_MAX_LINE: Final = 4 * MAX_NOTE_SIZE
_SIGNATURE: Final = "\N{EM DASH} "


class _Line(msgspec.Struct):
    note: str


def kept_notes(path: Path) -> Iterator[str]:
    """Yield the notes in a file, none of them verified. Raises ``OSError``, and ``NoteError`` for any other text."""
    note, signed = "", False
    with path.open(encoding="utf-8", newline="\n") as lines:
        while line := lines.readline(_MAX_LINE):
            if line.startswith("{"):
                yield from _in_json(line)
                continue
            is_signature = line.startswith(_SIGNATURE)
            if signed and not is_signature:
                yield note
                note, signed = "", False
            if line == "\n" and not note:
                continue
            note, signed = note + line, is_signature
            if len(note) > MAX_NOTE_SIZE:
                raise NoteError("it holds something else than checkpoints")
    if signed:
        yield note
    elif note:
        raise NoteError("it holds something else than checkpoints")


def _in_json(line: str) -> Iterator[str]:
    try:
        yield msgspec.json.decode(line, type=_Line).note
    except msgspec.DecodeError:
        return
