"""The first schema: entries, head, rules, blocks, agents, keys, and what is remembered for a while."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0001"
down_revision: Final = None
branch_labels: Final = None
depends_on: Final = None

_Whole: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _record()
    _revocation()
    _agents_and_keys()
    _remembered()


def downgrade() -> None:
    raise NotImplementedError("a ledger is never taken apart")


def _one() -> sa.Column[int]:
    return sa.Column("one", sa.Integer, sa.CheckConstraint("one = 1"), primary_key=True, autoincrement=False)


def _record() -> None:
    texts = ("agent", "role", "task", "ref", "issuer", "audience", "scope", "tier", "key", "bound_key")
    entries = op.create_table(
        "entries",
        sa.Column("seq", _Whole, primary_key=True, autoincrement=False),
        sa.Column("leaf", sa.LargeBinary, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("at", _Whole, nullable=False),
        *(sa.Column(name, sa.Text) for name in texts),
        sa.Column("epoch", _Whole),
        sa.Column("expires_at", _Whole),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("entries_ref", "entries", ["ref"])
    issued = entries.c.kind == "token.issued"
    op.create_index("entries_token_expiry", "entries", ["expires_at"], sqlite_where=issued, postgresql_where=issued)
    op.create_table(
        "head",
        _one(),
        sa.Column("size", _Whole, nullable=False),
        sa.Column("frontier", sa.LargeBinary, nullable=False),
        sa.Column("epoch", _Whole, nullable=False),
    )
    op.create_table(
        "meta",
        _one(),
        sa.Column("ledger", sa.Text, nullable=False),
        sa.Column("compatibility", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
    )
    op.create_table(
        "checkpoints",
        sa.Column("size", _Whole, primary_key=True, autoincrement=False),
        sa.Column("root", sa.LargeBinary, nullable=False),
        sa.Column("note", sa.Text),
        sa.Column("at", sa.Float, nullable=False),
    )


def _revocation() -> None:
    op.create_table(
        "rules",
        sa.Column("number", _Whole, primary_key=True, autoincrement=False),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("selector", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("incident", sa.Text),
        sa.Column("ends_at", sa.Float, nullable=False),
    )
    op.create_table(
        "blocks",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("selector", sa.Text, nullable=False),
        sa.Column("rule", _Whole),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("until", sa.Float),
        sa.Column("lifted_at", sa.Float),
    )


def _agents_and_keys() -> None:
    op.create_table(
        "agents",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("jwk", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
    )
    op.create_table(
        "enrollments",
        sa.Column("code_digest", sa.LargeBinary, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
    )
    op.create_table(
        "keys",
        sa.Column("kid", sa.Text, primary_key=True),
        sa.Column("use", sa.Text, nullable=False),
        sa.Column("alg", sa.Text, nullable=False),
        sa.Column("public_jwk", sa.Text, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("active_at", sa.Float, nullable=False),
        sa.Column("retires_at", sa.Float),
        sa.Column("revoked", sa.Boolean, nullable=False),
    )


def _remembered() -> None:
    op.create_table(
        "single_use",
        sa.Column("key", sa.LargeBinary, primary_key=True),
        sa.Column("expires_at", _Whole, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("single_use_expiry", "single_use", ["expires_at"])
    op.create_table(
        "rates",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("step", _Whole, primary_key=True),
        sa.Column("count", _Whole, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("rates_step", "rates", ["step"])
    op.create_table(
        "idempotency",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("ref", sa.Text, nullable=False),
        sa.Column("expires_at", _Whole, nullable=False),
    )
    op.create_index("idempotency_expiry", "idempotency", ["expires_at"])
