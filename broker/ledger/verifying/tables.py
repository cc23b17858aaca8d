"""What a database holds besides its entries, compared with what these come to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Row, select

from broker.core.tiles import TILE_WIDTH
from broker.ledger import schema
from broker.ledger.verifying.course import Course
from broker.ledger.verifying.derived_nodes import DerivedNodes


def head_problems(course: Course, head: Row[Any] | None) -> Iterator[str]:
    """Yield in what a head differs from the entries that were gone through."""
    size, frontier = course.tree.size, course.tree.frontier()
    if head is None:
        yield "the ledger has no head"
    elif head.size != size:
        yield f"the head counts {head.size} entries, but there are {size}"
    elif frontier is not None and head.frontier != frontier.to_bytes():
        yield "the head's hashes differ from those of the entries: entries were changed or replaced"


def node_problems(connection: Connection, course: Course, size: int | None = None) -> Iterator[str]:
    """Yield what is stored differently of the tree above its leaves, unless entries are missing that it needs.

    With a ``size``, nodes over later entries are not looked at.
    """
    if course.tree.frontier() is not None:
        nodes = DerivedNodes()
        nodes.take(course.tree.completed)
        yield from nodes.compare(connection, size)
    elif any(number not in course.tree.nodes for number in range(course.archived // TILE_WIDTH)):
        yield "the tree's nodes of level 1 over archived entries are missing"


def epoch_problems(connection: Connection, course: Course) -> Iterator[str]:
    """Yield that the head is at another epoch than the entries come to, unless all rules may be archived."""
    epoch, recorded = connection.scalar(select(schema.head.c.epoch)), course.derived.epoch
    if epoch not in {None, recorded} and not (course.archived and recorded == 0):
        yield f"the head is at epoch {epoch}, but the recorded rules come to {recorded}"


def state_problems(connection: Connection, course: Course) -> Iterator[str]:
    """Yield what the other tables say differently, as far as the entries tell that are not archived."""
    yield from course.derived.compare(connection, whole=not course.archived)
