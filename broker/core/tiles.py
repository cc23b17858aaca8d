"""The Merkle tree cut into tiles of 256 hashes: which there are, how they are named, and what is computed from them.

A tile of level 0 holds the hashes of 256 leaves; one of level L holds the roots of 256 full tiles of the level below.
The last tile of a level may be partial. An *entry bundle* holds the entries whose leaf hashes a tile of level 0 holds.

Source: https://c2sp.org/tlog-tiles.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from broker.core.merkle import HASH_SIZE, TILE_HEIGHT, Frontier, joined

TILE_WIDTH: Final = 1 << TILE_HEIGHT
"""Hashes in a full tile."""

Hashes = Callable[[int, int, int], Sequence[bytes]]
"""Returns, of a level, the hashes from one place to before another; they are all of one tile."""

_ENTRIES: Final = "entries"
_LENGTH_BYTES: Final = 2
_NAME: Final = re.compile(
    r"(?P<level>entries|0|[1-9][0-9]?)/(?P<number>(?:x[0-9]{3}/){0,5}[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)


@dataclass(frozen=True, slots=True)
class Tile:
    """Names a tile of hashes, or, if ``level`` is None, a bundle of entries. ``width`` counts what is in it."""

    level: int | None
    number: int
    width: int = TILE_WIDTH

    @property
    def is_full(self) -> bool:
        """Whether nothing will be added to it."""
        return self.width == TILE_WIDTH

    @property
    def start(self) -> int:
        """The place, in its level, of the first of its hashes or entries."""
        return self.number * TILE_WIDTH

    @property
    def path(self) -> str:
        """How it is called below the prefix ``tile/``: index 1234067 of level 0 is ``0/x001/x234/067``."""
        groups = [f"{self.number % 1000:03}"]
        rest = self.number // 1000
        while rest:
            groups.insert(0, f"x{rest % 1000:03}")
            rest //= 1000
        level = _ENTRIES if self.level is None else str(self.level)
        partial = "" if self.is_full else f".p/{self.width}"
        return f"{level}/{'/'.join(groups)}{partial}"

    def exists(self, size: int) -> bool:
        """Whether a tree of so many leaves has it: a partial tile is the beginning of any that is wider."""
        return self.start + self.width <= size >> (TILE_HEIGHT * (self.level or 0))


def parse_tile_path(path: str) -> Tile | None:
    """Return the tile of this name, or None if it is not the one spelling of a name."""
    match = _NAME.fullmatch(path)
    if match is None:
        return None
    level = None if match["level"] == _ENTRIES else int(match["level"])
    number = int(match["number"].replace("x", "").replace("/", ""))
    tile = Tile(level, number, int(match["width"] or TILE_WIDTH))
    return tile if tile.path == path and tile.width <= TILE_WIDTH else None


def tiles_of(level: int | None, size: int) -> Iterator[Tile]:
    """Yield the tiles that a tree of so many leaves has on a level, the partial one last."""
    count = size >> (TILE_HEIGHT * (level or 0))
    for start in range(0, count, TILE_WIDTH):
        yield Tile(level, start // TILE_WIDTH, min(TILE_WIDTH, count - start))


def subtree_root(hashes: Hashes, start: int, end: int) -> bytes:
    """Return the root of the subtree over the leaves from ``start`` to before ``end``, from the hashes of few tiles.

    Asks once for each level. Raises ``ValueError`` for leaves that no tree has as one subtree.
    """
    length = end - start
    if length < 1 or start < 0 or start % (1 << (length - 1).bit_length()):
        msg = f"the leaves {start} to {end - 1} are not a subtree"
        raise ValueError(msg)
    peaks: list[bytes] = []
    for level in range((length.bit_length() - 1) // TILE_HEIGHT, -1, -1):
        height = level * TILE_HEIGHT
        first, stop = start >> height, end >> height
        if first < stop:
            peaks += Frontier().append(hashes(level, first, stop)).nodes
            start = stop << height
    return joined(peaks)


def cut_hashes(tile: bytes) -> list[bytes]:
    """Return the hashes that a tile consists of. Raises ``ValueError`` if they are not whole."""
    if len(tile) % HASH_SIZE:
        msg = f"a tile consists of hashes of {HASH_SIZE} bytes"
        raise ValueError(msg)
    return [tile[start : start + HASH_SIZE] for start in range(0, len(tile), HASH_SIZE)]


def bundle(entries: Iterable[bytes]) -> bytes:
    """Return entries as a bundle: each behind its length, two bytes, the higher one first."""
    return b"".join(len(entry).to_bytes(_LENGTH_BYTES, "big") + entry for entry in entries)


def cut_bundle(data: bytes) -> list[bytes]:
    """Return the entries of a bundle. Raises ``ValueError`` if the last one is not whole."""
    entries: list[bytes] = []
    place = 0
    while place < len(data):
        begin = place + _LENGTH_BYTES
        place = begin + int.from_bytes(data[place:begin], "big")
        if place > len(data):
            msg = "the bundle ends in the middle of an entry"
            raise ValueError(msg)
        entries.append(data[begin:place])
    return entries
