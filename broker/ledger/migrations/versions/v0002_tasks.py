"""Tasks with their budgets, actions, approvals with their votes; and what tokens have from their ancestors."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0002"
down_revision: Final = "0001"
branch_labels: Final = None
depends_on: Final = None

_Whole: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("entries", sa.Column("lineage", sa.Text))
    _tasks()
    _actions()
    _approvals()


def downgrade() -> None:
    raise NotImplementedError("a ledger is never taken apart")


def _tasks() -> None:
    tasks = op.create_table(
        "tasks",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("opened_at", sa.Float, nullable=False),
        sa.Column("deadline", _Whole, nullable=False),
        sa.Column("ceiling", sa.Text, nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("idle_timeout", _Whole),
        sa.Column("flagged", sa.Boolean, nullable=False),
        sa.Column("implicit", sa.Boolean, nullable=False),
        sa.Column("heartbeat_at", sa.Float, nullable=False),
        sa.Column("holds_until", sa.Float, nullable=False),
        sa.Column("closed_at", sa.Float),
        sa.Column("closed_because", sa.Text),
    )
    op.create_index("tasks_path", "tasks", ["path"])
    op.create_index("tasks_owner", "tasks", ["owner", "id"])
    still_open = tasks.c.closed_at.is_(None)
    op.create_index("tasks_open", "tasks", ["deadline"], sqlite_where=still_open, postgresql_where=still_open)
    op.create_table(
        "budgets",
        sa.Column("task", sa.Text, primary_key=True),
        sa.Column("resource", sa.Text, primary_key=True),
        sa.Column("limit", _Whole, nullable=False),
        sa.Column("used", _Whole, nullable=False),
        sa.Column("reserved", _Whole, nullable=False),
    )


def _actions() -> None:
    op.create_table(
        "actions",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("count", _Whole, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("token", sa.Text, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("audience", sa.Text, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("reserved_at", sa.Float, nullable=False),
        sa.Column("settle_by", sa.Float, nullable=False),
        sa.Column("target", sa.Text),
        sa.Column("digest", sa.Text),
        sa.Column("outcome", sa.Text),
        sa.Column("result", sa.Text),
        sa.Column("settled_at", sa.Float),
    )
    op.create_index("actions_task", "actions", ["task", "id"])
    op.create_index("actions_agent", "actions", ["agent", "id"])
    op.create_index("actions_settle_by", "actions", ["settle_by"])


def _approvals() -> None:
    op.create_table(
        "approvals",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("quorum", _Whole, nullable=False),
        sa.Column("expires_at", _Whole, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("decided_at", sa.Float),
        sa.Column("used_at", sa.Float),
    )
    op.create_index("approvals_digest", "approvals", ["digest"])
    op.create_index("approvals_state", "approvals", ["state", "id"])
    op.create_table(
        "votes",
        sa.Column("approval", sa.Text, primary_key=True),
        sa.Column("approver", sa.Text, primary_key=True),
        sa.Column("approve", sa.Boolean, nullable=False),
        sa.Column("vote", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
