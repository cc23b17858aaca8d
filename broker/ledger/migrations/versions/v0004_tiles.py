"""The nodes of the Merkle tree above its leaves, one for 256 entries, so that no proof goes through all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa
from alembic import op

from broker.core.merkle import Frontier, TileNode

revision: Final = "0004"
down_revision: Final = "0003"
branch_labels: Final = None
depends_on: Final = None

_PIECE: Final = 65_536
_Whole: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    nodes = op.create_table(
        "nodes",
        sa.Column("level", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", _Whole, primary_key=True, autoincrement=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    for piece in _pieces(op.get_bind()):
        op.bulk_insert(nodes, [node._asdict() for node in piece])


def downgrade() -> None:
    raise NotImplementedError("a ledger is never taken apart")


def _pieces(connection: sa.Connection) -> Iterator[list[TileNode]]:
    """Yield the nodes over the leaves that are stored, piece by piece. Raises ``ValueError`` for what is no leaf."""
    frontier = Frontier()
    while True:
        query = sa.text("SELECT leaf FROM entries WHERE seq >= :start AND seq < :end ORDER BY seq")
        place = {"start": frontier.size, "end": frontier.size + _PIECE}
        leaves = connection.execute(query, place).scalars().all()
        frontier, nodes = frontier.extend(leaves)
        yield nodes
        if len(leaves) < _PIECE:
            return
