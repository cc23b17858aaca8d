"""What the Merkle hashing must compute, checked against published vectors and malformed input."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from broker.core.merkle import (
    EMPTY_ROOT,
    HASH_SIZE,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)


class Inclusion(msgspec.Struct, forbid_unknown_fields=True):
    """A published audit path."""

    index: int
    size: int
    proof: list[str]


class Consistency(msgspec.Struct, forbid_unknown_fields=True):
    """A published consistency proof."""

    old: int
    new: int
    proof: list[str]


class Vectors(msgspec.Struct, forbid_unknown_fields=True):
    """The published tree of eight leaves; all hashes in hex."""

    source: str
    leaves: list[str]
    leaf_hashes: list[str]
    roots: list[str]
    inclusion: list[Inclusion]
    consistency: list[Consistency]


VECTORS_FILE = Path(__file__).parents[2] / "vectors" / "merkle.json"
VECTORS = msgspec.json.decode(VECTORS_FILE.read_bytes(), type=Vectors)
LEAVES = [leaf_hash(bytes.fromhex(leaf)) for leaf in VECTORS.leaves]
ROOTS = [bytes.fromhex(root) for root in VECTORS.roots]
OTHER = bytes(HASH_SIZE)


def subtree(start: int, end: int) -> bytes:
    """Return the root over some of the published leaves."""
    return root_of(LEAVES[start:end])


def from_hex(hashes: Sequence[str]) -> tuple[bytes, ...]:
    """Return the hashes as bytes."""
    return tuple(bytes.fromhex(text) for text in hashes)


def test_leaf_hashes_equal_the_published_ones() -> None:
    """A leaf is hashed behind the byte 0x00."""
    assert [leaf.hex() for leaf in LEAVES] == VECTORS.leaf_hashes


def test_leaves_and_nodes_are_hashed_in_different_domains() -> None:
    """An entry that looks like two hashes must not be taken for an inner node."""
    assert node_hash(LEAVES[0], LEAVES[1]) == sha256(b"\x01" + LEAVES[0] + LEAVES[1]).digest()
    assert leaf_hash(LEAVES[0] + LEAVES[1]) != node_hash(LEAVES[0], LEAVES[1])


def test_empty_root_is_the_published_one() -> None:
    """The empty tree hashes to SHA-256 of nothing."""
    assert ROOTS[0] == EMPTY_ROOT == root_of([]) == Frontier().root()


@pytest.mark.parametrize("size", range(len(ROOTS)))
def test_roots_equal_the_published_ones(size: int) -> None:
    """Every size from 0 to 8 has its published root."""
    assert root_of(LEAVES[:size]) == ROOTS[size]


@pytest.mark.parametrize("vector", VECTORS.inclusion)
def test_inclusion_proofs_equal_the_published_ones(vector: Inclusion) -> None:
    """We make the published audit path, and accept it."""
    proof = from_hex(vector.proof)
    assert inclusion_proof(subtree, vector.index, vector.size) == proof
    assert verify_inclusion(LEAVES[vector.index], vector.index, vector.size, proof, ROOTS[vector.size])


@pytest.mark.parametrize("vector", VECTORS.consistency)
def test_consistency_proofs_equal_the_published_ones(vector: Consistency) -> None:
    """We make the published consistency proof, and accept it."""
    proof = from_hex(vector.proof)
    assert consistency_proof(subtree, vector.old, vector.new) == proof
    assert verify_consistency(vector.old, ROOTS[vector.old], vector.new, ROOTS[vector.new], proof)


@pytest.mark.parametrize(("index", "size"), [(-1, 8), (8, 8), (0, 0), (3, 2), (0, -1)])
def test_no_inclusion_proof_of_what_is_not_there(index: int, size: int) -> None:
    """Asking for a leaf outside the tree is an error of the caller."""
    with pytest.raises(ValueError, match="no inclusion proof"):
        inclusion_proof(subtree, index, size)


@pytest.mark.parametrize(("old", "new"), [(-1, 8), (5, 4)])
def test_no_consistency_proof_between_impossible_sizes(old: int, new: int) -> None:
    """Sizes must ascend."""
    with pytest.raises(ValueError, match="no consistency proof"):
        consistency_proof(subtree, old, new)


@pytest.mark.parametrize(("index", "size"), [(-1, 8), (8, 8), (9, 8), (5, 0), (5, -8), (4, 8), (5, 16), (5, 1 << 80)])
def test_inclusion_fails_at_another_place(index: int, size: int) -> None:
    """A path holds for one place; an impossible place is refused without an exception."""
    assert not verify_inclusion(LEAVES[5], index, size, inclusion_proof(subtree, 5, 8), ROOTS[8])


def malformed(proof: tuple[bytes, ...]) -> dict[str, tuple[bytes, ...]]:
    """Return proofs that are this proof with one defect each."""
    return {
        "nothing": (),
        "last missing": proof[:-1],
        "first missing": proof[1:],
        "one too many": (*proof, OTHER),
        "far too many": proof * 100,
        "reversed": proof[::-1],
        "short hash": (proof[0][:-1], *proof[1:]),
        "long hash": (proof[0] + b"\0", *proof[1:]),
        "empty hash": (b"", *proof),
        "joined": (b"".join(proof),),
    }


@pytest.mark.parametrize("defect", malformed((OTHER,)))
def test_malformed_proofs_are_refused(defect: str) -> None:
    """A proof with a defect is no proof, and never an exception."""
    inclusion = malformed(inclusion_proof(subtree, 5, 8))[defect]
    consistency = malformed(consistency_proof(subtree, 6, 8))[defect]
    assert not verify_inclusion(LEAVES[5], 5, 8, inclusion, ROOTS[8])
    assert not verify_consistency(6, ROOTS[6], 8, ROOTS[8], consistency)


def test_text_in_place_of_hashes_is_refused() -> None:
    """Undecoded input is not a proof, even if it has the length of a hash."""
    text: list[bytes] = ["x" * HASH_SIZE]  # type: ignore[list-item]
    assert not verify_inclusion(LEAVES[0], 0, 2, text, ROOTS[2])
    assert not verify_consistency(1, ROOTS[1], 2, ROOTS[2], text)


@pytest.mark.parametrize("bad", [b"", OTHER, OTHER[:-1], OTHER + b"\0"])
def test_wrong_roots_and_leaves_are_refused(bad: bytes) -> None:
    """Each hash that a proof is checked against matters."""
    inclusion, consistency = inclusion_proof(subtree, 5, 8), consistency_proof(subtree, 6, 8)
    assert not verify_inclusion(bad, 5, 8, inclusion, ROOTS[8])
    assert not verify_inclusion(LEAVES[5], 5, 8, inclusion, bad)
    assert not verify_consistency(6, bad, 8, ROOTS[8], consistency)
    assert not verify_consistency(6, ROOTS[6], 8, bad, consistency)


@pytest.mark.parametrize(("old", "new"), [(-6, 8), (8, 6), (6, -8), (-8, -6), (5, 8), (6, 16), (6, 1 << 80)])
def test_consistency_fails_between_other_sizes(old: int, new: int) -> None:
    """A proof holds for one pair of sizes; impossible sizes are refused without an exception."""
    assert not verify_consistency(old, ROOTS[6], new, ROOTS[8], consistency_proof(subtree, 6, 8))


def test_tile_nodes_are_by_products_of_appending() -> None:
    """Each full tile of 256 hashes has its root in the level above; the batches do not matter."""
    leaves = [leaf_hash(number.to_bytes(4, "big")) for number in range(65_536 + 300)]
    frontier, whole = Frontier().extend(leaves)
    assert [(node.level, node.number) for node in whole if node.level > 1] == [(2, 0)]
    level_1 = [node.hash for node in whole if node.level == 1]
    assert level_1 == [root_of(leaves[start : start + 256]) for start in range(0, 65_536 + 256, 256)]
    assert whole[-2] == (2, 0, root_of(level_1[:256])) == (2, 0, root_of(leaves[:65_536]))
    pieces, parts = Frontier(), []
    for start in range(0, len(leaves), 100):
        pieces, completed = pieces.extend(leaves[start : start + 100])
        parts += completed
    assert (pieces, parts) == (frontier, whole)


def test_every_tree_continues_the_empty_one() -> None:
    """From size 0 nothing needs proof, but the empty tree has only one root and no proof."""
    assert verify_consistency(0, EMPTY_ROOT, 0, EMPTY_ROOT, ())
    assert verify_consistency(0, EMPTY_ROOT, 8, ROOTS[8], ())
    assert not verify_consistency(0, OTHER, 0, OTHER, ())
    assert not verify_consistency(0, OTHER, 8, ROOTS[8], ())
    assert not verify_consistency(0, EMPTY_ROOT, 8, ROOTS[8], (OTHER,))


def test_trees_of_one_size_are_consistent_only_if_equal() -> None:
    """Two roots for one size are a fork."""
    assert verify_consistency(8, ROOTS[8], 8, ROOTS[8], ())
    assert not verify_consistency(8, ROOTS[8], 8, OTHER, ())
    assert not verify_consistency(8, ROOTS[8], 8, ROOTS[8], (OTHER,))


def test_frontier_holds_the_perfect_subtrees_largest_first() -> None:
    """Seven leaves are perfect subtrees of four, two and one."""
    assert Frontier().append(LEAVES[:7]).nodes == (root_of(LEAVES[:4]), root_of(LEAVES[4:6]), LEAVES[6])


def test_frontier_survives_storage() -> None:
    """What is stored comes back and can be appended to."""
    stored = Frontier().append(LEAVES[:5]).to_bytes()
    assert Frontier.from_bytes(5, stored).append(LEAVES[5:]).root() == ROOTS[8]
    assert Frontier.from_bytes(0, b"") == Frontier()


@pytest.mark.parametrize(("size", "length"), [(0, 32), (1, 0), (1, 31), (1, 33), (3, 32), (4, 64), (-1, 32)])
def test_frontier_refuses_bytes_of_another_size(size: int, length: int) -> None:
    """A damaged head is noticed when it is loaded."""
    with pytest.raises(ValueError, match=r"a frontier of|cannot have"):
        Frontier.from_bytes(size, bytes(length))


@pytest.mark.parametrize(("size", "nodes"), [(1, ()), (0, (OTHER,)), (3, (OTHER, b"")), (-1, (OTHER,))])
def test_frontier_refuses_nodes_that_no_tree_has(size: int, nodes: tuple[bytes, ...]) -> None:
    """An impossible frontier cannot be built."""
    with pytest.raises(ValueError, match=r"a frontier of|cannot have"):
        Frontier(size, nodes)


@pytest.mark.parametrize("entry", [b"", b"entry", bytes(HASH_SIZE + 1)])
def test_frontier_refuses_entries_in_place_of_leaf_hashes(entry: bytes) -> None:
    """Appending something that is not a hash would damage the tree for good."""
    with pytest.raises(ValueError, match="a leaf hash has 32 bytes"):
        Frontier().append([LEAVES[0], entry])
