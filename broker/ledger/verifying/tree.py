"""The tree over stored leaf hashes, compared at each size with what somebody wrote down of it.

There are two trees: one over the entries that are there, and one over the roots of whole tiles as they were stored when
the entries came. While nothing is amiss they are the same. Where a tile is missing, or is not what it was, the stored
root takes its place, so that a checkpoint can still vouch for everything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from broker.core.merkle import Frontier, TileNode
from broker.core.tiles import TILE_WIDTH
from broker.core.trust import Ranges


@dataclass(frozen=True, slots=True)
class Claim:
    """A size and root that somebody wrote down: the tree of that size must have this root.

    ``vouches`` says that it counts for more than the ledger's word: it was kept ``elsewhere``, or it has a good
    signature.
    """

    size: int
    root: bytes
    says: str
    vouches: bool = False
    elsewhere: bool = False


class Judgement(Enum):
    """What became of a claim."""

    HOLDS = auto()
    HOLDS_FOR_TILES = auto()
    """It is of the tiles as they were; entries of some were changed since."""
    DIFFERS = auto()
    UNKNOWN = auto()
    """Entries before it are missing, so that it cannot be compared."""
    BEYOND = auto()
    """It is of more entries than there are."""


@dataclass(slots=True)
class Tree:
    """Takes leaf hashes in their order, and judges claims as their sizes are reached.

    ``nodes`` are the stored roots of whole tiles by their number. ``before`` is the tree at the first entry that will
    come, which must be that of whole tiles; what it stands for is not looked at. ``completed`` are the nodes above
    whole tiles that the entries come to.
    """

    claims: Iterable[Claim] = ()
    nodes: Mapping[int, bytes] = field(default_factory=dict)
    before: Frontier = field(default_factory=Frontier)
    judged: list[tuple[Claim, Judgement]] = field(default_factory=list)
    completed: list[TileNode] = field(default_factory=list)
    changed_tiles: Ranges = field(default_factory=Ranges)
    missing: Ranges = field(default_factory=Ranges)
    _entries: Frontier | None = field(init=False)
    _tiles: Frontier | None = field(init=False)
    _rest: Frontier | None = field(default_factory=Frontier, init=False)
    _size: int = field(init=False)
    _due: list[Claim] = field(init=False)

    def __post_init__(self) -> None:
        """Begin where ``before`` ends."""
        self._size = self.before.size
        self._entries = self._tiles = Frontier(self._size // TILE_WIDTH, self.before.nodes)
        self._due = []
        self.expect(self.claims)

    @property
    def size(self) -> int:
        """The place of the entry that comes next."""
        return self._size

    def frontier(self) -> Frontier | None:
        """Return the tree so far over the entries that are there; None if some are missing that it needs."""
        return self._joined(self._entries)

    def expect(self, claims: Iterable[Claim]) -> None:
        """Take up more claims. Those of fewer entries than there are by now cannot be compared any more."""
        self._due = sorted((*self._due, *claims), key=lambda claim: claim.size, reverse=True)
        self._settle()

    def take(self, first: int, leaves: Sequence[bytes]) -> None:
        """Take up leaf hashes that have no gap among them; those before ``first`` that did not come are missing."""
        if first > self._size:
            self.missing.add(self._size, first)
            self._skip(first)
        start = 0
        while start < len(leaves):
            end = min(len(leaves), start + self._until_stop())
            if self._rest is not None:
                self._rest = self._rest.append(leaves[start:end])
            self._size += end - start
            start = end
            self._close_tile()
            self._settle()

    def finish(self) -> None:
        """Judge the claims that are left: they are of more entries than there are."""
        while self._due:
            self.judged.append((self._due.pop(), Judgement.BEYOND))

    def _until_stop(self) -> int:
        """Return how many leaves can be taken before a claim must be settled or a tile ends."""
        left = TILE_WIDTH - self._size % TILE_WIDTH
        return min(left, self._due[-1].size - self._size) if self._due else left

    def _skip(self, end: int) -> None:
        """Go on to the entry ``end`` without those between: whole tiles of them are known by their stored roots."""
        while self._size < end:
            known = self._tiles is not None and self._size // TILE_WIDTH in self.nodes
            self._rest = None
            self._size = min(end, self._size - self._size % TILE_WIDTH + TILE_WIDTH) if known else end
            if not known:
                self._entries = self._tiles = None
            self._close_tile()
            self._settle()

    def _close_tile(self) -> None:
        if self._size % TILE_WIDTH or (self._rest is not None and self._rest.size == 0):
            return
        number = self._size // TILE_WIDTH - 1
        mine = self._rest.root() if self._rest is not None else None
        stored = self.nodes.get(number, mine)
        if mine is not None and stored != mine:
            self.changed_tiles.add(self._size - TILE_WIDTH, self._size)
        self._append(number, stored if mine is None else mine)
        self._tiles = None if self._tiles is None or stored is None else self._tiles.append([stored])
        self._rest = Frontier()

    def _append(self, number: int, root: bytes | None) -> None:
        """Append a tile to the tree of those that are there, which is a tree of tiles' roots."""
        if self._entries is None or root is None:
            self._entries = None
            return
        self._entries, above = self._entries.extend([root])
        self.completed.append(TileNode(1, number, root))
        self.completed += [TileNode(node.level + 1, node.number, node.hash) for node in above]

    def _settle(self) -> None:
        while self._due and self._due[-1].size <= self._size:
            claim = self._due.pop()
            self.judged.append((claim, self._judge(claim)))

    def _judge(self, claim: Claim) -> Judgement:
        if claim.size != self._size:
            return Judgement.UNKNOWN if claim.size >= 0 else Judgement.DIFFERS
        entries, tiles = self._joined(self._entries), self._joined(self._tiles)
        if entries is not None and entries.root() == claim.root:
            return Judgement.HOLDS
        if tiles is not None and tiles.root() == claim.root:
            return Judgement.HOLDS_FOR_TILES
        return Judgement.UNKNOWN if entries is None else Judgement.DIFFERS

    def _joined(self, tiles: Frontier | None) -> Frontier | None:
        """Return the tree of whole tiles with the leaves of the last one: a tile is a subtree of a tree of tiles."""
        if tiles is None or self._rest is None:
            return None
        return Frontier(self._size, tiles.nodes + self._rest.nodes)
