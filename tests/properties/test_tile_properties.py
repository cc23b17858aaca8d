"""Proofs from tiles are the proofs that RFC 6962 writes down, for trees of every shape."""

from __future__ import annotations

import random
from functools import cache, partial

import pymerkle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.merkle import (
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)
from broker.core.tiles import TILE_WIDTH, Tile, subtree_root

SMALL = 1_100
LARGE = 140_000

ENTRIES = [number.to_bytes(4, "big") for number in range(LARGE)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
NODES = Frontier().extend(LEAVES)[1]
LEVELS = [LEAVES, *([node.hash for node in NODES if node.level == level] for level in (1, 2))]

sizes = st.integers(1, LARGE)


def stored(level: int, start: int, end: int) -> list[bytes]:
    """Return hashes as the ledger has them: leaves, and the roots of full tiles; all of one tile."""
    assert start // TILE_WIDTH == (end - 1) // TILE_WIDTH
    assert end <= len(LEVELS[level])
    return LEVELS[level][start:end]


def published(size: int, level: int, start: int, end: int) -> list[bytes]:
    """Return hashes as a client has them that fetched the tiles of a tree of this size, and no others."""
    number = start // TILE_WIDTH
    assert Tile(level, number, end - number * TILE_WIDTH).exists(size)
    return stored(level, start, end)


subtree = partial(subtree_root, stored)


@cache
def textbook_root(start: int, end: int) -> bytes:
    """Return MTH(D[start:end]) as RFC 6962 section 2.1 writes it."""
    if end - start == 1:
        return LEAVES[start]
    middle = start + split(end - start)
    return node_hash(textbook_root(start, middle), textbook_root(middle, end))


def split(size: int) -> int:
    """Return the largest power of two below the size."""
    return 1 << (size - 1).bit_length() - 1


def textbook_path(place: int, start: int, end: int) -> list[bytes]:
    """Return PATH(place, D[start:end]) as RFC 6962 section 2.1.1 writes it."""
    if end - start == 1:
        return []
    middle = start + split(end - start)
    if place < middle:
        return [*textbook_path(place, start, middle), textbook_root(middle, end)]
    return [*textbook_path(place, middle, end), textbook_root(start, middle)]


def textbook_proof(old: int, start: int, end: int, known: bool) -> list[bytes]:
    """Return SUBPROOF(old, D[start:end], known) as RFC 6962 section 2.1.2 writes it."""
    if old == end - start:
        return [] if known else [textbook_root(start, end)]
    half = split(end - start)
    if old <= half:
        return [*textbook_proof(old, start, start + half, known), textbook_root(start + half, end)]
    return [*textbook_proof(old - half, start + half, end, False), textbook_root(start, start + half)]


@pytest.mark.parametrize("first", range(1, SMALL + 1, 100))
def test_small_trees(first: int) -> None:
    """Every size: the root, both ends, the border of the last tile, and some places in between."""
    choice = random.Random(first)
    for size in range(first, min(first + 100, SMALL + 1)):
        assert subtree(0, size) == textbook_root(0, size)
        edges = {0, size - 1, size // TILE_WIDTH * TILE_WIDTH % size, *(choice.randrange(size) for _ in range(6))}
        for place in edges:
            assert list(inclusion_proof(subtree, place, size)) == textbook_path(place, 0, size)
            assert list(consistency_proof(subtree, place + 1, size)) == textbook_proof(place + 1, 0, size, True)


@settings(deadline=None)
@given(sizes, st.data())
def test_large_trees(size: int, data: st.DataObject) -> None:
    """Any place in any tree, and any older tree, from the tiles that a tree of this size has."""
    place = data.draw(st.integers(0, size - 1))
    root = subtree(0, size)
    served = partial(subtree_root, partial(published, size))
    path, proof = inclusion_proof(served, place, size), consistency_proof(served, place + 1, size)
    assert list(path) == textbook_path(place, 0, size)
    assert list(proof) == textbook_proof(place + 1, 0, size, True)
    assert verify_inclusion(LEAVES[place], place, size, path, root)
    assert verify_consistency(place + 1, subtree(0, place + 1), size, root, proof)


def test_another_implementation_agrees() -> None:
    """``pymerkle`` has the same roots and audit paths, takes ours, and proves that our trees continue each other."""
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for entry in ENTRIES[:SMALL]:
        tree.append_entry(entry)
    choice = random.Random(5)
    for size in (1, 2, 255, 256, 257, 511, 512, 700, 1024, SMALL):
        root, place = subtree(0, size), choice.randrange(size)
        assert tree.get_root(size) == root
        theirs = tree.prove_inclusion(place + 1, size)
        theirs.path[1:] = inclusion_proof(subtree, place, size)  # theirs begins with the leaf itself
        pymerkle.verify_inclusion(LEAVES[place], root, theirs, index=place + 1, size=size)
        pymerkle.verify_consistency(root, subtree(0, SMALL), tree.prove_consistency(size, SMALL))
