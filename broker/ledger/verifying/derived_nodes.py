"""What the nodes of the Merkle tree must be, computed from the leaves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from sqlalchemy import Connection

from broker.core.merkle import TILE_HEIGHT, TileNode
from broker.ledger.schema import nodes

_Run = tuple[int, int, int, str]
"""Level, first and last number, and what is wrong with these nodes."""

_LEVELS: Final = 7
"""Levels above the leaves of a tree of less than 2^63 entries."""

_MISSING: Final = "missing"
_WRONG: Final = "different from what the entries come to"
_SURPLUS: Final = "there although the entries do not come to them"


class DerivedNodes:
    """Follows the nodes that appended leaves complete, then compares the table with them."""

    def __init__(self) -> None:
        """The tree is empty."""
        self._nodes: dict[tuple[int, int], bytes] = {}

    def take(self, completed: Iterable[TileNode]) -> None:
        """Take up nodes that leaves have completed."""
        self._nodes.update(((node.level, node.number), node.hash) for node in completed)

    def compare(self, connection: Connection, size: int | None = None) -> Iterator[str]:
        """Yield what the table says differently, in plain words; neighbours with the same fault are told together.

        With a ``size``, nodes over later entries than that many are not looked at: they were added meanwhile.
        """
        columns = nodes.c
        query = nodes.select().order_by(columns.level, columns.number)
        stored = {
            (level, number): digest
            for level, number, digest in connection.execute(query)
            if size is None or not _is_later(level, number, size)
        }
        wrong = []
        for place in sorted(self._nodes.keys() | stored.keys()):
            if place not in stored:
                wrong.append((place, _MISSING))
            elif place not in self._nodes:
                wrong.append((place, _SURPLUS))
            elif stored[place] != self._nodes[place]:
                wrong.append((place, _WRONG))
        yield from (_told(*run) for run in _runs(wrong))


def _is_later(level: int, number: int, size: int) -> bool:
    """Whether a node is over entries that a tree of this size does not have; nodes that no tree has are not."""
    return 0 < level <= _LEVELS and (number + 1) << (TILE_HEIGHT * level) > size


def _runs(wrong: Iterable[tuple[tuple[int, int], str]]) -> Iterator[_Run]:
    run: _Run | None = None
    for (level, number), what in wrong:
        if run is not None and (level, number - 1, what) == (run[0], run[2], run[3]):
            run = (level, run[1], number, what)
            continue
        if run is not None:
            yield run
        run = (level, number, number, what)
    if run is not None:
        yield run


def _told(level: int, first: int, last: int, what: str) -> str:
    which = f"node {first}" if first == last else f"nodes {first} to {last}"
    if 0 < level <= _LEVELS:
        height = TILE_HEIGHT * level
        of = f"over the entries {first << height} to {((last + 1) << height) - 1}"
    else:
        of = "which no tree has"
    return f"the tree's {which} of level {level}, {of}: {what}"
