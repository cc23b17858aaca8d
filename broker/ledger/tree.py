"""The Merkle tree as it is stored: proofs and tiles from few rows, however many entries there are.

Leaf hashes are in the entries; everything above them is in ``nodes``. So a proof needs, of the entries, those in the
tiles of the leaf itself and of the tree's right edge, and any others may be gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from sqlalchemy import Connection, select

from broker.core.errors import Code, Refused, Unavailable
from broker.core.merkle import (
    HASH_SIZE,
    TILE_HEIGHT,
    Frontier,
    Subtree,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    verify_inclusion,
)
from broker.core.tiles import TILE_WIDTH, Tile, bundle, subtree_root
from broker.ledger import schema
from broker.ledger.databases import statements
from broker.ledger.reading.records import record
from broker.ledger.sharing.head import Head
from broker.ports import Proven, SignedHead


def inclusion(connection: Connection, seq: int, size: int) -> Sequence[bytes]:
    """Return the proof that entry ``seq`` is in the tree of ``size`` entries. Raises :class:`Refused`."""
    if not 0 <= seq < size or size > Head.read(connection).frontier.size:
        raise Refused(Code.NOT_FOUND, "there is no such entry in a tree of this size")
    return inclusion_proof(subtree(connection, size), seq, size)


def consistency(connection: Connection, old: int, new: int) -> Sequence[bytes]:
    """Return the proof that the tree of ``new`` entries continues that of ``old``. Raises :class:`Refused`."""
    if not 0 <= old <= new or new > Head.read(connection).frontier.size:
        raise Refused(Code.NOT_FOUND, "there are no trees of these sizes, the older one first")
    return consistency_proof(subtree(connection, new), old, new)


def frontier(connection: Connection, size: int) -> Frontier:
    """Return the frontier of the tree of ``size`` entries. Raises :class:`Refused` or :class:`Unavailable`."""
    root_over, nodes, start = subtree(connection, size), list[bytes](), 0
    for bit in reversed(range(size.bit_length())):
        if size >> bit & 1:
            nodes.append(root_over(start, start + (1 << bit)))
            start += 1 << bit
    return Frontier(size, tuple(nodes))


def proven(connection: Connection, seq: int, head: SignedHead) -> Proven:
    """Return an entry with the proof that it is under a signed head. Raises :class:`Refused` (``NOT_FOUND``).

    What would not convince anybody is not handed out: it raises :class:`Unavailable` (``LEDGER_CORRUPT``).
    """
    path = inclusion(connection, seq, head.size)
    entry = record(connection, seq)
    if entry is None:
        raise _gone(seq, seq + 1)
    if not verify_inclusion(leaf_hash(entry.body), seq, head.size, path, head.root):
        raise _damaged(f"entry {seq} is not in the tree that was signed")
    return Proven(entry, tuple(path), head)


def tile(connection: Connection, wanted: Tile) -> bytes:
    """Return what a tile or a bundle holds. Raises :class:`Refused` (``NOT_FOUND``) if the tree has none such."""
    if not wanted.exists(Head.read(connection).frontier.size):
        raise Refused(Code.NOT_FOUND, "the tree has no such tile")
    start, end = wanted.start, wanted.start + wanted.width
    if wanted.level is not None:
        return b"".join(_hashes(connection, wanted.level, start, end))
    table = schema.entries.c
    between = table.seq.between(start, end - 1)
    bodies = connection.scalars(select(table.body).where(between).order_by(table.seq)).all()
    if len(bodies) != wanted.width:
        raise _gone(start, end)
    try:
        return bundle(bodies)
    except (TypeError, OverflowError) as error:
        raise _damaged(f"the entries {start} to {end - 1} cannot be read") from error


def subtree(connection: Connection, size: int) -> Subtree:
    """Return what finds the root over leaves of the tree of ``size`` entries; it raises like :func:`frontier`."""
    return partial(subtree_root, _Tiles(connection, size))


class _Tiles:
    """The hashes of a tree of ``size`` entries, read by whole tiles: a proof asks for many parts of few of them."""

    def __init__(self, connection: Connection, size: int) -> None:
        self._connection = connection
        self._size = size
        self._known: dict[tuple[int, int], Sequence[bytes]] = {}

    def __call__(self, level: int, start: int, end: int) -> Sequence[bytes]:
        first = start - start % TILE_WIDTH
        known = self._known.get((level, first))
        if known is None:
            stop = min(first + TILE_WIDTH, self._size >> (TILE_HEIGHT * level))
            known = self._known[level, first] = _hashes(self._connection, level, first, stop)
        return known[start - first : end - first]


def _hashes(connection: Connection, level: int, start: int, end: int) -> Sequence[bytes]:
    """Return hashes of a level. Raises :class:`Refused` or :class:`Unavailable` rather than returning fewer."""
    if level:
        found = statements.of(connection).node_hashes(connection, level, start, end)
        if found is None:
            raise _damaged("nodes of the tree are missing")
    else:
        found = statements.of(connection).leaf_hashes(connection, start, end)
        if found is None:
            raise _gone(start, end)
    if any(len(digest) != HASH_SIZE for digest in found):
        raise _damaged("the tree has hashes that are none")
    return found


def _gone(start: int, end: int) -> Refused:
    which = f"entry {start} is not" if end == start + 1 else f"not all of the entries {start} to {end - 1} are"
    return Refused(Code.NOT_FOUND, f"{which} in the ledger any more")


def _damaged(what: str) -> Unavailable:
    return Unavailable(Code.LEDGER_CORRUPT, f"the ledger is damaged: {what}")
