"""Up to which entry a process must know the ledger to have in memory what is in force."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0008"
down_revision: Final = "0007"
branch_labels: Final = None
depends_on: Final = None

_Whole: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("head", sa.Column("changed", _Whole, nullable=False, server_default="0"))
    op.execute("UPDATE head SET changed = size")


def downgrade() -> None:
    raise NotImplementedError("a ledger is never taken apart")
