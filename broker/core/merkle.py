"""RFC 6962 Merkle hashing: the arithmetic that makes the ledger tamper-evident.

Everything here is a pure function over SHA-256 digests. A *leaf hash* is what `leaf_hash` returns for one ledger entry;
all other functions take leaf hashes, never entries. Indexes count from 0 and sizes count leaves. A *tile node* is the
root of a perfect subtree whose height is a multiple of eight: what is stored of the tree above its leaves.

Sources: RFC 6962 section 2.1 (hashes and proofs), RFC 9162 sections 2.1.3.2 and 2.1.4.2 (verification).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import NamedTuple, Self

HASH_SIZE = 32
"""Bytes in one digest."""

EMPTY_ROOT = sha256(b"").digest()
"""The root of the tree without leaves (RFC 6962 section 2.1)."""

TILE_HEIGHT = 8
"""Heights between two levels of tile nodes (C2SP tlog-tiles)."""

Subtree = Callable[[int, int], bytes]
"""Returns the root of the subtree over the leaves from one place to before another."""

_LEAF_PREFIX = b"\x00"
_NODE_PREFIX = b"\x01"


class TileNode(NamedTuple):
    """The root of the subtree number `number`, from 0, of `256 ** level` leaves; `level` is 1 or more."""

    level: int
    number: int
    hash: bytes


def leaf_hash(entry: bytes) -> bytes:
    """Return the leaf hash of an entry: SHA-256(0x00 || entry) (RFC 6962 section 2.1)."""
    return sha256(_LEAF_PREFIX + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node: SHA-256(0x01 || left || right) (RFC 6962 section 2.1)."""
    return sha256(_NODE_PREFIX + left + right).digest()


@dataclass(frozen=True, slots=True)
class Frontier:
    """The right edge of a tree: all that is needed to append to it and to know its root.

    `nodes` are the roots of the perfect subtrees that the leaves fall into, largest (leftmost) first: one for each bit
    that is set in `size`. `Frontier()` is the empty tree.

    Raises:
        ValueError: `size` is negative, or `nodes` are not one 32-byte hash for each set bit of `size`.
    """

    size: int = 0
    nodes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a combination that no tree can have."""
        _require_size(self.size)
        if len(self.nodes) != self.size.bit_count() or not _are_hashes(self.nodes):
            raise ValueError(f"a frontier of {self.size} leaves has {self.size.bit_count()} nodes of {HASH_SIZE} bytes")

    def append(self, leaf_hashes: Iterable[bytes]) -> Self:
        """Return the frontier after these leaves; see :meth:`extend`."""
        return self.extend(leaf_hashes)[0]

    def extend(self, leaf_hashes: Iterable[bytes]) -> tuple[Self, list[TileNode]]:
        """Return the frontier after these leaves, and the tile nodes that they complete, in the order of completion.

        Costs one node hash for each leaf, amortised.

        Raises:
            ValueError: a leaf hash is not 32 bytes long.
        """
        size, nodes = self.size, list(self.nodes)
        completed: list[TileNode] = []
        for leaf in leaf_hashes:
            if len(leaf) != HASH_SIZE:
                raise ValueError(f"a leaf hash has {HASH_SIZE} bytes, not {len(leaf)}")
            # Binary addition: every set bit at the low end of the size is a subtree that this leaf completes.
            node, carry, height = leaf, size, 0
            while carry & 1:
                node = sha256(_NODE_PREFIX + nodes.pop() + node).digest()
                carry >>= 1
                height += 1
                if not height % TILE_HEIGHT:
                    completed.append(TileNode(height // TILE_HEIGHT, size >> height, node))
            nodes.append(node)
            size += 1
        return type(self)(size, tuple(nodes)), completed

    def root(self) -> bytes:
        """Return the root hash of the tree; `EMPTY_ROOT` if it has no leaves."""
        return joined(self.nodes)

    def to_bytes(self) -> bytes:
        """Return the nodes, largest first, without separators; the size is to be kept beside them."""
        return b"".join(self.nodes)

    @classmethod
    def from_bytes(cls, size: int, data: bytes) -> Self:
        """Rebuild the frontier of a tree of `size` leaves from what `to_bytes` returned.

        Raises:
            ValueError: `size` is negative, or `data` has not the length that a tree of this size needs.
        """
        _require_size(size)
        if len(data) != size.bit_count() * HASH_SIZE:
            raise ValueError(f"a frontier of {size} leaves takes {size.bit_count() * HASH_SIZE} bytes, not {len(data)}")
        cuts = range(0, len(data) + 1, HASH_SIZE)
        return cls(size, tuple(data[start:end] for start, end in pairwise(cuts)))


def root_of(leaves: Iterable[bytes]) -> bytes:
    """Return the root hash over leaf hashes (MTH of RFC 6962 section 2.1).

    Raises:
        ValueError: a leaf hash is not 32 bytes long.
    """
    return Frontier().append(leaves).root()


def node_count(size: int) -> int:
    """Return how many tile nodes a tree of so many leaves has."""
    count = 0
    while size := size >> TILE_HEIGHT:
        count += size
    return count


def joined(peaks: Sequence[bytes]) -> bytes:
    """Return the root over perfect subtrees that stand side by side, the largest (leftmost) first, none as large.

    Without any it is `EMPTY_ROOT`.
    """
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root


def inclusion_proof(subtree: Subtree, index: int, size: int) -> tuple[bytes, ...]:
    """Return the audit path of leaf `index` in the tree of the first `size` leaves, from the leaf's sibling upwards.

    This is PATH of RFC 6962 section 2.1.1. Asks for one subtree for each height of the tree.

    Raises:
        ValueError: not 0 <= index < size.
    """
    if not 0 <= index < size:
        raise ValueError(f"no inclusion proof of leaf {index} in a tree of {size}")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        split = start + _left_size(end - start)
        if index < split:
            path.append(subtree(split, end))
            end = split
        else:
            path.append(subtree(start, split))
            start = split
    return tuple(reversed(path))


def consistency_proof(subtree: Subtree, old: int, new: int) -> tuple[bytes, ...]:
    """Return the proof that the tree of the first `old` leaves is a prefix of the tree of the first `new` leaves.

    This is PROOF of RFC 6962 section 2.1.2; it is empty if `old` is 0 or equal to `new`, since then there is nothing to
    show. Asks for one subtree for each height of the tree.

    Raises:
        ValueError: not 0 <= old <= new.
    """
    if not 0 <= old <= new:
        raise ValueError(f"no consistency proof from {old} to {new}")
    if old == 0:
        return ()
    path: list[bytes] = []
    start, end = 0, new
    while end != old:
        split = start + _left_size(end - start)
        if old <= split:
            path.append(subtree(split, end))
            end = split
        else:
            path.append(subtree(start, split))
            start = split
    # A subtree that starts at 0 and ends at `old` is the old tree itself, whose root the verifier has.
    if start:
        path.append(subtree(start, end))
    return tuple(reversed(path))


def verify_inclusion(leaf_hash: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Tell whether the proof shows that `leaf_hash` is leaf `index` of the tree with this size and root.

    Take `size` and `root` from one verified checkpoint: an audit path alone does not pin the size, because trees of
    different sizes may share the shape of a path. Malformed input is simply not a proof: the answer is False.
    Source: RFC 9162 section 2.1.3.2.
    """
    if not 0 <= index < size or not _are_hashes((leaf_hash, root, *proof)):
        return False
    position, last, computed = index, size - 1, leaf_hash
    for sibling in proof:
        if last == 0:
            return False
        if position & 1 or position == last:
            position, last = _skip_missing_siblings(position, last)
            computed = node_hash(sibling, computed)
        else:
            computed = node_hash(computed, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and computed == root


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Tell whether the proof shows that the old tree is a prefix of the new one.

    Take each size and its root from one verified checkpoint. Between equal sizes the roots must be equal; the empty
    tree is a prefix of all; both need an empty proof. Malformed input is simply not a proof: the answer is False.
    Source: RFC 9162 section 2.1.4.2.
    """
    if not 0 <= old_size <= new_size or not _are_hashes((old_root, new_root, *proof)):
        return False
    if old_size == new_size:
        return not proof and old_root == new_root and (old_size > 0 or old_root == EMPTY_ROOT)
    if old_size == 0:
        return not proof and old_root == EMPTY_ROOT
    # An old tree that is one perfect subtree is not repeated in the proof.
    path = (old_root, *proof) if old_size.bit_count() == 1 else tuple(proof)
    return bool(path) and _roots_from_consistency_path(old_size, new_size, path) == (old_root, new_root)


def _roots_from_consistency_path(old_size: int, new_size: int, path: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    """Return the old and the new root that a path leads to, or None if its length does not fit the sizes."""
    position, last = old_size - 1, new_size - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old_root = new_root = path[0]
    for node in path[1:]:
        if last == 0:
            return None
        if position & 1 or position == last:
            position, last = _skip_missing_siblings(position, last)
            old_root, new_root = node_hash(node, old_root), node_hash(node, new_root)
        else:
            new_root = node_hash(new_root, node)
        position, last = position >> 1, last >> 1
    return (old_root, new_root) if last == 0 else None


def _skip_missing_siblings(position: int, last: int) -> tuple[int, int]:
    """Climb the levels at which the last node of a row has no sibling and so is its own parent."""
    while position and not position & 1:
        position, last = position >> 1, last >> 1
    return position, last


def _left_size(size: int) -> int:
    """Return how many of `size` > 1 leaves are in the left subtree: the largest power of two below `size`."""
    return 1 << ((size - 1).bit_length() - 1)


def _are_hashes(values: Iterable[object]) -> bool:
    return all(isinstance(value, bytes) and len(value) == HASH_SIZE for value in values)


def _require_size(size: int) -> None:
    if size < 0:
        raise ValueError(f"a tree cannot have {size} leaves")
