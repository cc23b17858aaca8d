"""The entries of an export or an archive: JSON Lines, plain or compressed, each ``{"seq", "entry"}``.

An export may repeat entries and hold torn lines, where it was killed and went on. A line that is no entry is passed
over: what it should have held is missing if it does not come again.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from broker.core import base64url
from broker.core.entry import encode
from broker.core.errors import Code, Unavailable
from broker.core.exporting.event import one_line
from broker.ledger.verifying.stored import Loaded, Piece, Stored

BLOCK: Final = 4 * 1024 * 1024
"""Bytes of lines in a piece, once they are no longer compressed."""

MAX_LINE: Final = 1024 * 1024
"""Longest line in bytes: an entry of 64 KiB has none that is longer, whatever had to be escaped."""

UNREADABLE: Final = (OSError, EOFError, zlib.error)
"""What reading a file raises that is damaged, or not there to its end."""

_GZIP: Final = b"\x1f\x8b"


class Beside(msgspec.Struct, frozen=True):
    """Personal members with the salt of their commitment, base64url."""

    salt: str
    members: dict[str, Any]

    def stored(self) -> bytes:
        """Return them as a ledger stores them; nothing that any commitment fits if they are not such."""
        try:
            return base64url.decode(self.salt) + encode(self.members)
        except ValueError:
            return b""


class Line(msgspec.Struct, frozen=True):
    """A line of an export: the entry's place, its JSON as it stands there, and what is personal beside it."""

    seq: int
    entry: msgspec.Raw
    personal: Beside | None = None


_decoder: Final = msgspec.json.Decoder(Line)


@dataclass(frozen=True, slots=True)
class LinesPiece:
    """Whole lines."""

    lines: bytes
    share: float

    def load(self) -> Loaded:
        """Read the lines."""
        entries: list[Stored] = []
        for line in self.lines.split(b"\n"):
            try:
                found = _decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            stored = None if found.personal is None else found.personal.stored()
            entries.append(Stored(found.seq, None, None, canonical(bytes(found.entry)), stored))
        return Loaded(entries)


class LinesEntries:
    """The entries in a file of lines."""

    def __init__(self, path: Path) -> None:
        """``path`` is read from its beginning each time."""
        self._path = path

    def pieces(self) -> Iterator[Piece]:
        """Yield blocks of whole lines. Raises ``Unavailable`` if the file cannot be read to its end."""
        size = max(1, self._path.stat().st_size)
        try:
            with self._path.open("rb") as file:
                for block in _blocks(opened(file)):
                    yield LinesPiece(block, min(1.0, file.tell() / size))
        except UNREADABLE as error:
            raise Unavailable(Code.LEDGER_UNAVAILABLE, f"{self._path.name} cannot be read to its end") from error


def opened(file: BinaryIO) -> BinaryIO:
    """Return the content of a file that may be compressed."""
    start = file.read(len(_GZIP))
    file.seek(0)
    return io.BufferedReader(gzip.GzipFile(fileobj=file)) if start == _GZIP else file


def canonical(told: bytes) -> bytes:
    """Return the canonical encoding of an entry that may have been written in ASCII, with escapes.

    Without any, it is judged as it stands. What is neither comes back as it is, to be found not to be canonical: two
    readers could otherwise see two entries in it.
    """
    if told.isascii() and b"\\u" not in told:
        return told
    try:
        members: dict[str, Any] = msgspec.json.decode(told, type=dict[str, Any])
        return encode(members) if one_line(members).encode() == told else told
    except (ValueError, RecursionError):
        return told


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """Cut a file at line ends. The parts of a line that is far too long come as lines of their own."""
    rest = b""
    while block := file.read(BLOCK):
        head, end, tail = block.rpartition(b"\n")
        if end or len(rest) + len(block) > MAX_LINE:
            yield rest + head
            rest = tail
        else:
            rest += block
    if rest:
        yield rest
