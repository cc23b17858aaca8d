"""A folder that holds a ledger as tiles: each file is written once, whole and durably, and the checkpoint last.

So the checkpoint in the folder never speaks of more than is there. What a crash interrupts is gone on with by the next
run: files that are there are complete, since they are renamed into place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker.cli.outcome import ExitCode, Failure, unusable
from broker.core.merkle import Frontier, leaf_hash
from broker.core.tiles import Tile, cut_bundle, cut_hashes, tiles_of
from broker.durable_files import replace_file, sync_folder
from broker.signing.checkpoint import Checkpoint, NoteError, claimed

CHECKPOINT: Final = "checkpoint"


@dataclass(frozen=True, slots=True)
class Source:
    """A ledger at a signed checkpoint; ``read`` returns the content of a bundle of its entries."""

    note: str
    size: int
    root: bytes
    read: Callable[[Tile], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Made:
    """What the folder holds now (``root`` in hex), and how many files were written for it."""

    size: int
    root: str
    written: int


class TileFolder:
    """The folder."""

    def __init__(self, folder: Path) -> None:
        """It is made when the first file is."""
        self._folder = folder
        self._written: list[Path] = []

    async def complete(self, source: Source) -> Made:
        """Write what is missing for a checkpoint, and then the checkpoint.

        Every hash is computed from the entries, or from the full tiles that are there already, and must lead to the
        root that was signed. Raises ``Failure`` (``INTEGRITY``) if it does not, or if the folder's own checkpoint
        speaks of another ledger or a younger one; then what was written is removed again.
        """
        try:
            await self._complete(source)
        except Failure as failure:
            for path in self._written if failure.exit_code is ExitCode.INTEGRITY else ():
                path.unlink(missing_ok=True)
            raise
        return Made(source.size, source.root.hex(), len(self._written))

    async def _complete(self, source: Source) -> None:
        before = self._checkpoint()
        if before is not None and before.size > source.size:
            raise _contradiction(f"the folder has {before.size} entries already, the ledger only {source.size}")
        frontier, levels = Frontier(), defaultdict[int, list[bytes]](list)
        for bundle in tiles_of(None, source.size):
            leaves = await self._leaves(bundle, source)
            if before is not None and 0 <= before.size - frontier.size <= len(leaves):
                _check(before, frontier.append(leaves[: before.size - frontier.size]))
            frontier, nodes = frontier.extend(leaves)
            for node in nodes:
                levels[node.level].append(node.hash)
        if frontier.root() != source.root:
            raise _contradiction(
                "the entries do not lead to the root that was signed: they, or the folder, were changed"
            )
        for level, hashes in levels.items():
            for tile in tiles_of(level, source.size):
                self._put(tile, b"".join(hashes[tile.start : tile.start + tile.width]))
        if before is None or self._read(CHECKPOINT) != source.note.encode():
            self._write(CHECKPOINT, source.note.encode())

    async def _leaves(self, bundle: Tile, source: Source) -> list[bytes]:
        """Return the leaf hashes of a bundle, from the folder if they are all there already."""
        hashes = Tile(0, bundle.number, bundle.width)
        if bundle.is_full and self._place(bundle).is_file() and self._place(hashes).is_file():
            return _whole(bundle, lambda: cut_hashes(self._read(f"tile/{hashes.path}")))
        content = await source.read(bundle)
        leaves = _whole(bundle, lambda: [leaf_hash(entry) for entry in cut_bundle(content)])
        self._put(bundle, content)
        self._put(hashes, b"".join(leaves))
        return leaves

    def _checkpoint(self) -> Checkpoint | None:
        """Return what the folder's own checkpoint says, if there is one."""
        try:
            return claimed(self._read(CHECKPOINT).decode())
        except FileNotFoundError:
            return None
        except (NoteError, UnicodeDecodeError) as error:
            raise unusable(f"{self._folder / CHECKPOINT} is not a checkpoint; is this a folder of tiles?") from error

    def _put(self, tile: Tile, content: bytes) -> None:
        """Write a tile, unless it is there. Raises ``Failure`` if it is there and holds something else."""
        name = f"tile/{tile.path}"
        if not self._place(tile).is_file():
            self._write(name, content)
        elif self._read(name) != content:
            raise _contradiction(f"{self._place(tile)} was changed")

    def _place(self, tile: Tile) -> Path:
        return self._folder / "tile" / tile.path

    def _read(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise unusable(f"{self._folder / name} cannot be read ({error.strerror})") from error

    def _write(self, name: str, content: bytes) -> None:
        path = self._folder / name
        try:
            _make(path.parent)
            replace_file(path, content)
        except OSError as error:
            raise unusable(f"{path} cannot be written ({error.strerror})") from error
        self._written.append(path)


def _make(folder: Path) -> None:
    """Make a folder and those above it, each durably."""
    if folder.is_dir():
        return
    _make(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def _whole(bundle: Tile, cut: Callable[[], list[bytes]]) -> list[bytes]:
    """Return as many hashes as a bundle has entries. Raises ``Failure``."""
    try:
        leaves = cut()
    except ValueError as error:
        raise _contradiction(f"the entries from {bundle.start} on cannot be read: {error}") from error
    if len(leaves) != bundle.width:
        raise _contradiction(f"there are {len(leaves)} instead of {bundle.width} entries from {bundle.start} on")
    return leaves


def _check(before: Checkpoint, frontier: Frontier) -> None:
    if frontier.root() != before.root:
        raise _contradiction(f"the first {before.size} entries are not those that the folder's checkpoint signs for")


def _contradiction(text: str) -> Failure:
    return Failure(ExitCode.INTEGRITY, "not_consistent", text)
