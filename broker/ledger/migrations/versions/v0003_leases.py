"""Leases: secrets that were taken from backends, and what has become of them."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0003"
down_revision: Final = "0002"
branch_labels: Final = None
depends_on: Final = None

_Whole: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    leases = op.create_table(
        "leases",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("secret", sa.Text, nullable=False),
        sa.Column("backend", sa.Text, nullable=False),
        sa.Column("tier", sa.Text, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("on_behalf_of", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("epoch", _Whole, nullable=False),
        sa.Column("taken_at", sa.Float, nullable=False),
        sa.Column("ends_by", _Whole, nullable=False),
        sa.Column("allowed_by", sa.Text, nullable=False),
        sa.Column("token", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("handle", sa.Text, nullable=False),
        sa.Column("expires_at", _Whole),
        sa.Column("good_until", _Whole),
        sa.Column("revocable", sa.Boolean, nullable=False),
        sa.Column("renewable", sa.Boolean, nullable=False),
        sa.Column("fingerprint", sa.Text),
        sa.Column("because", sa.Text),
        sa.Column("rule", _Whole),
        sa.Column("attempts", _Whole, nullable=False),
        sa.Column("next_attempt_at", sa.Float),
        sa.Column("last_error", sa.Text),
        sa.Column("ended_at", sa.Float),
        sa.Column("settled_at", sa.Float),
        sa.Column("note", sa.Text),
        sa.Column("held", sa.Boolean, nullable=False),
    )
    unsettled = leases.c.settled_at.is_(None)
    for name, columns in (
        ("leases_agent", ["agent", "role"]),
        ("leases_end", ["ends_by"]),
        ("leases_work", ["next_attempt_at"]),
    ):
        op.create_index(name, "leases", columns, sqlite_where=unsettled, postgresql_where=unsettled)
    op.create_index("leases_task", "leases", ["task"])
    op.create_index("leases_rule", "leases", ["rule"])


def downgrade() -> None:
    raise NotImplementedError("a ledger is never taken apart")
