"""Personal members of entries, beside the leaf, so that they can be erased. Older entries stay as they are."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0006"
down_revision: Final = "0005"
branch_labels: Final = None
depends_on: Final = None


def upgrade() -> None:
    op.add_column("entries", sa.Column("personal", sa.LargeBinary))


def downgrade() -> None:
    raise NotImplementedError("a ledger is never taken apart")
