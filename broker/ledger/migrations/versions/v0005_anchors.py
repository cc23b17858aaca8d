"""Anchors: which checkpoints were placed beyond the broker's reach, and what came back for them."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0005"
down_revision: Final = "0004"
branch_labels: Final = None
depends_on: Final = None

_Whole: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "anchorings",
        sa.Column("anchor", sa.Text, primary_key=True),
        sa.Column("size", _Whole, primary_key=True, autoincrement=False),
        sa.Column("root", sa.LargeBinary, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("receipt", sa.Text, nullable=False),
        sa.Column("cosignatures", sa.Text, nullable=False),
    )
