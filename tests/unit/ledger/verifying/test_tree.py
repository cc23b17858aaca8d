"""The tree of a verification: claims at any size, gaps, and tiles that are not what they were."""

from __future__ import annotations

import itertools
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.merkle import Frontier, root_of
from broker.core.trust import Trust
from broker.ledger.verifying.tree import Claim, Judgement, Tree

LEAVES = [sha256(str(number).encode()).digest() for number in range(1100)]
NODES = {number: root_of(LEAVES[256 * number : 256 * number + 256]) for number in range(4)}
OTHER = bytes(32)


def claim(size: int, root: bytes | None = None) -> Claim:
    """Return a claim that is right, unless another root is given."""
    return Claim(size, root_of(LEAVES[:size]) if root is None else root, f"{size}")


def judged(tree: Tree) -> dict[int, Judgement]:
    """Return what became of the claim of each size."""
    tree.finish()
    return {claim.size: judgement for claim, judgement in tree.judged}


@given(st.lists(st.integers(0, 1100), max_size=5), st.lists(st.integers(0, 1100), max_size=5))
def test_claims_are_judged_at_their_size(sizes: list[int], cuts: list[int]) -> None:
    """However the leaves come, each claim is compared with the tree of its size."""
    tree = Tree([claim(size) for size in sizes] + [claim(600, OTHER)])
    edges = sorted({0, 1100, *cuts})
    for first, end in itertools.pairwise(edges):
        tree.take(first, LEAVES[first:end])
    frontier = tree.frontier()
    assert frontier is not None
    assert frontier == Frontier().append(LEAVES)
    tree.finish()
    assert {judgement for each, judgement in tree.judged if each.root != OTHER} <= {Judgement.HOLDS}
    assert [judgement for each, judgement in tree.judged if each.root == OTHER] == [Judgement.DIFFERS]


@pytest.mark.parametrize(("gap", "end"), [(0, 256), (0, 300), (100, 101), (200, 700), (256, 1024)])
def test_a_gap_of_whole_tiles_hides_nothing_else(gap: int, end: int) -> None:
    """With the stored roots of tiles, what is beyond a gap can still be vouched for; inside it, nothing can."""
    tree = Tree([claim(0), claim(gap + 1), claim(1050), claim(1100)], NODES)
    tree.take(0, LEAVES[:gap])
    tree.take(end, LEAVES[end:])
    told = judged(tree)
    assert told[1050] is told[1100] is Judgement.HOLDS
    assert gap + 1 == end or told[gap + 1] is Judgement.UNKNOWN
    assert [(span.first, span.end) for span in tree.missing.spans(Trust.MISSING)] == [(gap, end)]


def test_a_gap_without_stored_roots() -> None:
    """Nothing is said of claims beyond it, however far it reaches."""
    tree = Tree([claim(50), claim(1100)])
    tree.take(0, LEAVES[:60])
    tree.take(2**60, LEAVES[:300])
    assert judged(tree) == {50: Judgement.HOLDS, 1100: Judgement.UNKNOWN}
    assert tree.frontier() is None
    assert tree.size == 2**60 + 300


def test_changed_leaves_are_told_by_their_tile() -> None:
    """If the stored roots are those of a claim, it vouches for all tiles but those that differ from them."""
    leaves = [*LEAVES[:300], OTHER, *LEAVES[301:]]
    tree = Tree([claim(256), claim(512), claim(1030)], NODES)
    tree.take(0, leaves)
    assert judged(tree) == {256: Judgement.HOLDS, 512: Judgement.HOLDS_FOR_TILES, 1030: Judgement.HOLDS_FOR_TILES}
    assert [(span.first, span.end) for span in tree.changed_tiles.spans(Trust.CHANGED)] == [(256, 512)]


def test_beginning_at_a_border() -> None:
    """With the frontier of what was before, the tree goes on; claims below cannot be compared."""
    tree = Tree([claim(100), claim(512), claim(513), claim(9999, OTHER)], before=Frontier().append(LEAVES[:512]))
    tree.take(512, LEAVES[512:])
    assert judged(tree) == {
        100: Judgement.UNKNOWN,
        512: Judgement.HOLDS,
        513: Judgement.HOLDS,
        9999: Judgement.BEYOND,
    }
    assert tree.frontier() == Frontier().append(LEAVES)
