"""What must hold of Merkle trees of every shape."""

from collections.abc import Sequence

from hypothesis import assume, given
from hypothesis import strategies as st

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

EXHAUSTIVE_SIZE = 40
LARGEST_SIZE = 260

LEAVES = [leaf_hash(number.to_bytes(4, "big")) for number in range(LARGEST_SIZE)]
ROOTS = [root_of(LEAVES[:size]) for size in range(LARGEST_SIZE + 1)]

sizes = st.integers(1, LARGEST_SIZE)


def textbook_root(leaves: Sequence[bytes]) -> bytes:
    """Return MTH exactly as RFC 6962 section 2.1 writes it: split at the largest power of two below the size."""
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node_hash(textbook_root(leaves[:split]), textbook_root(leaves[split:]))


def subtree(start: int, end: int) -> bytes:
    """Return the root over some of the leaves."""
    return root_of(LEAVES[start:end])


def flip(value: bytes, bit: int) -> bytes:
    """Return the value with one bit inverted."""
    return (int.from_bytes(value, "big") ^ 1 << bit).to_bytes(len(value), "big")


def flip_one(proof: tuple[bytes, ...], data: st.DataObject) -> tuple[bytes, ...]:
    """Return the proof with one bit of one hash inverted."""
    place = data.draw(st.integers(0, len(proof) - 1))
    bit = data.draw(st.integers(0, HASH_SIZE * 8 - 1))
    return (*proof[:place], flip(proof[place], bit), *proof[place + 1 :])


def test_every_small_tree_proves_every_leaf() -> None:
    """All sizes and indexes up to a bound: the proof verifies, and for no other leaf."""
    for size in range(1, EXHAUSTIVE_SIZE + 1):
        for index in range(size):
            proof = inclusion_proof(subtree, index, size)
            assert verify_inclusion(LEAVES[index], index, size, proof, ROOTS[size])
            assert not verify_inclusion(LEAVES[index + 1], index, size, proof, ROOTS[size])


def test_every_small_tree_continues_every_smaller_one() -> None:
    """All pairs of sizes up to a bound: the proof verifies, and for no other old tree."""
    for new in range(EXHAUSTIVE_SIZE + 1):
        for old in range(new + 1):
            proof = consistency_proof(subtree, old, new)
            assert verify_consistency(old, ROOTS[old], new, ROOTS[new], proof)
            assert not verify_consistency(old, ROOTS[old + 1], new, ROOTS[new], proof)


@given(st.integers(0, LARGEST_SIZE))
def test_root_is_the_textbook_root(size: int) -> None:
    """The incremental root equals the recursive definition."""
    assert ROOTS[size] == textbook_root(LEAVES[:size])


@given(st.lists(st.integers(0, 70), max_size=8))
def test_frontier_does_not_depend_on_how_leaves_are_batched(batches: list[int]) -> None:
    """However the leaves arrive, and through storage, the frontier is that of all leaves at once."""
    leaves = [leaf_hash(number.to_bytes(4, "big")) for number in range(sum(batches))]
    frontier = Frontier()
    for count in batches:
        frontier = frontier.append(leaves[frontier.size : frontier.size + count])
        frontier = Frontier.from_bytes(frontier.size, frontier.to_bytes())
        assert frontier.root() == root_of(leaves[: frontier.size])
    assert frontier == Frontier().append(leaves)
    assert frontier.root() == textbook_root(leaves)


@given(st.integers(2, LARGEST_SIZE), st.data())
def test_flipped_bit_breaks_inclusion(size: int, data: st.DataObject) -> None:
    """No bit of the proof, the leaf or the root is without meaning."""
    index = data.draw(st.integers(0, size - 1))
    bit = data.draw(st.integers(0, HASH_SIZE * 8 - 1))
    leaf, root, proof = LEAVES[index], ROOTS[size], inclusion_proof(subtree, index, size)
    assert verify_inclusion(leaf, index, size, proof, root)
    assert not verify_inclusion(leaf, index, size, flip_one(proof, data), root)
    assert not verify_inclusion(flip(leaf, bit), index, size, proof, root)
    assert not verify_inclusion(leaf, index, size, proof, flip(root, bit))


@given(sizes, st.integers(-2, LARGEST_SIZE + 2), st.data())
def test_wrong_index_breaks_inclusion(size: int, wrong: int, data: st.DataObject) -> None:
    """A leaf is proved at its own place only."""
    index = data.draw(st.integers(0, size - 1))
    assume(wrong != index)
    assert not verify_inclusion(LEAVES[index], wrong, size, inclusion_proof(subtree, index, size), ROOTS[size])


@given(sizes, sizes, st.data())
def test_wrong_size_breaks_inclusion(size: int, wrong: int, data: st.DataObject) -> None:
    """A path into one tree is none into the tree of another size, each with its own root."""
    assume(wrong != size)
    index = data.draw(st.integers(0, size - 1))
    assert not verify_inclusion(LEAVES[index], index, wrong, inclusion_proof(subtree, index, size), ROOTS[wrong])


@given(sizes, st.data())
def test_flipped_bit_breaks_consistency(old: int, data: st.DataObject) -> None:
    """No bit of the proof or of either root is without meaning."""
    assume(old < LARGEST_SIZE)
    new = data.draw(st.integers(old + 1, LARGEST_SIZE))
    bit = data.draw(st.integers(0, HASH_SIZE * 8 - 1))
    proof = consistency_proof(subtree, old, new)
    assert verify_consistency(old, ROOTS[old], new, ROOTS[new], proof)
    assert not verify_consistency(old, ROOTS[old], new, ROOTS[new], flip_one(proof, data))
    assert not verify_consistency(old, flip(ROOTS[old], bit), new, ROOTS[new], proof)
    assert not verify_consistency(old, ROOTS[old], new, flip(ROOTS[new], bit), proof)


@given(sizes, sizes, sizes)
def test_wrong_size_breaks_consistency(old: int, new: int, wrong: int) -> None:
    """A proof between two trees is none between others, each with its own root."""
    assume(old < new)
    proof = consistency_proof(subtree, old, new)
    assert wrong == new or not verify_consistency(old, ROOTS[old], wrong, ROOTS[wrong], proof)
    assert wrong == old or not verify_consistency(wrong, ROOTS[wrong], new, ROOTS[new], proof)


@given(
    st.integers(-3, 300),
    st.integers(-3, 300),
    st.lists(st.one_of(st.sampled_from(LEAVES), st.binary(max_size=40)), max_size=12),
    st.sampled_from(ROOTS),
    st.binary(max_size=40),
)
def test_made_up_proofs_are_refused(first: int, second: int, proof: list[bytes], root: bytes, junk: bytes) -> None:
    """Arbitrary input is answered with False, never with an exception."""
    assert not verify_inclusion(junk, first, second, proof, root)
    assert not verify_consistency(first, junk, second, root, proof)
    assert not verify_consistency(first, root, second, junk, proof)
