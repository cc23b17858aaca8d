"""What was placed at anchors: the last checkpoints of each, with what came back for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select

from broker.ledger import schema
from broker.ports import Placed, Placement

KEPT: Final = 100
"""How many placements of one anchor are remembered (law 11): the anchor itself has them all."""


def youngest(connection: Connection) -> Sequence[Placement]:
    """Return the placement of the largest tree at each anchor."""
    table = schema.anchorings.c
    last = select(table.anchor, func.max(table.size).label("size")).group_by(table.anchor).subquery()
    both = (table.anchor == last.c.anchor) & (table.size == last.c.size)
    rows = connection.execute(select(schema.anchorings).join(last, both).order_by(table.anchor))
    return [
        Placement(
            anchor=row.anchor, size=row.size, root=row.root, at=row.at, placed=Placed(row.receipt, row.cosignatures)
        )
        for row in rows
    ]


def note_placement(connection: Connection, placement: Placement) -> None:
    """Keep a placement instead of what was known of the same or a larger tree, and forget the oldest.

    A larger one is of an anchor that has lost it, or of a ledger that was restored.
    """
    table = schema.anchorings.c
    of_anchor = table.anchor == placement.anchor
    connection.execute(delete(schema.anchorings).where(of_anchor, table.size >= placement.size))
    connection.execute(
        insert(schema.anchorings).values(
            anchor=placement.anchor,
            size=placement.size,
            root=placement.root,
            at=placement.at,
            receipt=placement.placed.receipt,
            cosignatures=placement.placed.cosignatures,
        )
    )
    kept = select(table.size).where(of_anchor).order_by(table.size.desc()).limit(KEPT)
    connection.execute(delete(schema.anchorings).where(of_anchor, table.size.not_in(kept)))


def cosigned(connection: Connection) -> str | None:
    """Return the newest checkpoint that a witness has cosigned, with the cosignatures that are known for it."""
    table, note = schema.anchorings.c, schema.checkpoints.c.note
    largest = select(func.max(table.size)).where(table.cosignatures != "").scalar_subquery()
    signed = connection.scalar(select(note).where(schema.checkpoints.c.size == largest))
    if signed is None:
        return None
    lines = select(table.cosignatures).where(table.size == largest, table.cosignatures != "").order_by(table.anchor)
    return "".join([str(signed), *connection.scalars(lines)])
