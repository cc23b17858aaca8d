"""An archive: the entries of a range of whole tiles in one compressed file that can be verified by itself.

JSON Lines in gzip. The first line is the header; then come the checkpoints of the range, ``{"checkpoint": note}``
each; then the entries, ``{"seq", "entry"}`` with their canonical bytes verbatim. The frontier before the first entry
makes the tree computable without what was before; the proof ties the tree at the end to a checkpoint that covers it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

import msgspec

from broker.core.errors import Code, Unavailable
from broker.core.merkle import Frontier
from broker.core.tiles import TILE_WIDTH
from broker.ledger.verifying.lines import MAX_LINE, UNREADABLE, opened

FORMAT: Final = "credential-broker-archive/1"
PATTERN: Final = re.compile(r"entries-[0-9]{12}-[0-9]{12}\.jsonl\.gz")
"""How archives are called, after the first entry that they hold and the first that they do not: so they sort."""


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line. Hashes are base64; ``before`` are the nodes of the frontier at ``first``, the largest first.

    ``root`` is of the tree of ``end`` entries. ``checkpoint`` covers them, and ``proof`` (RFC 9162 section 2.1.4) shows
    that its tree continues the one of ``end`` entries; both are absent if there was no signed checkpoint yet.
    """

    archive: str
    ledger: str
    first: int
    end: int
    before: tuple[str, ...]
    root: str
    checkpoint: str | None = None
    proof: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise ``ValueError`` if this cannot be the header of an archive."""
        if self.archive != FORMAT or not 0 <= self.first < self.end or self.first % TILE_WIDTH or self.end % TILE_WIDTH:
            raise ValueError("not a range of whole tiles in a format that is known")
        self.frontier()
        self.hashes()

    def frontier(self) -> Frontier:
        """Return the tree before the first entry. Raises ``ValueError``."""
        return Frontier(self.first, tuple(_decoded(node) for node in self.before))

    def hashes(self) -> tuple[bytes, tuple[bytes, ...]]:
        """Return the root and the proof. Raises ``ValueError``."""
        return _decoded(self.root), tuple(_decoded(node) for node in self.proof)


class _Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    checkpoint: str


@dataclass(frozen=True, slots=True)
class Archive:
    """What an archive says of itself; its entries are read when they are verified."""

    path: Path
    header: Header
    notes: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read what comes before the entries; None if the file is not an archive.

        Raises :class:`Unavailable` if it cannot be read, or says that it is one and is damaged.
        """
        try:
            with path.open("rb") as file:
                content = opened(file)
                first = content.readline(MAX_LINE)
                if not first.startswith(b'{"archive":'):
                    return None
                header = msgspec.json.decode(first, type=Header)
                header.check()
                return cls(path, header, tuple(_notes(content)))
        except UNREADABLE as error:
            raise Unavailable(Code.LEDGER_UNAVAILABLE, f"{path} cannot be read") from error
        except ValueError as error:
            raise Unavailable(Code.LEDGER_CORRUPT, f"{path.name} is damaged: its header cannot be read") from error


def archives_in(folder: Path) -> list[Path]:
    """Return the archives in a folder by their first entry; files that are called otherwise are not looked at."""
    return sorted(path for path in folder.iterdir() if PATTERN.fullmatch(path.name))


def file_name(first: int, end: int) -> str:
    """Return how the archive of a range is called."""
    return f"entries-{first:012}-{end:012}.jsonl.gz"


def encoded(node: bytes) -> str:
    """Return a hash as an archive writes it."""
    return base64.b64encode(node).decode()


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _notes(content: BinaryIO) -> Iterator[str]:
    while (line := content.readline(MAX_LINE)).startswith(b'{"checkpoint":'):
        yield msgspec.json.decode(line, type=_Note).checkpoint
