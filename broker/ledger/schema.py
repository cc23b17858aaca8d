"""The tables of the ledger, as the newest migration leaves them.

Times are Unix seconds, except ``entries.at`` (Unix milliseconds). ``head`` and ``meta`` have exactly one row.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

from broker.core.entry import Columns, Kind

COMPATIBILITY: Final = 1
"""The meaning of the stored data. A broker refuses a ledger whose number is not its own."""

metadata: Final = MetaData()

# SQLite gives a row its number only in a column that is spelled INTEGER; it has 64 bits all the same.
_Whole: Final = BigInteger().with_variant(Integer(), "sqlite")

_TYPES: Final = {"at": _Whole, "epoch": _Whole, "expires_at": _Whole}
_COLUMN_NAMES: Final = tuple(field.name for field in fields(Columns))

ENTRY_COLUMNS: Final = ("seq", "leaf", *_COLUMN_NAMES, "body")
"""The columns of ``entries`` in their stored order. ``body`` is last, so that reading the others does not load it."""

entries: Final = Table(
    "entries",
    metadata,
    Column("seq", _Whole, primary_key=True, autoincrement=False),
    Column("leaf", LargeBinary, nullable=False),
    *(Column(name, _TYPES.get(name, Text), nullable=name not in {"kind", "at"}) for name in _COLUMN_NAMES),
    Column("body", LargeBinary, nullable=False),
)
Index("entries_ref", entries.c.ref)
_issued: Final = entries.c.kind == Kind.TOKEN_ISSUED.value
Index("entries_token_expiry", entries.c.expires_at, sqlite_where=_issued, postgresql_where=_issued)

head: Final = Table(
    "head",
    metadata,
    Column("one", Integer, CheckConstraint("one = 1"), primary_key=True, autoincrement=False),
    Column("size", _Whole, nullable=False),
    Column("frontier", LargeBinary, nullable=False),
    Column("epoch", _Whole, nullable=False),
)

meta: Final = Table(
    "meta",
    metadata,
    Column("one", Integer, CheckConstraint("one = 1"), primary_key=True, autoincrement=False),
    Column("ledger", Text, nullable=False),
    Column("compatibility", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
)

rules: Final = Table(
    "rules",
    metadata,
    Column("number", _Whole, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False, unique=True),
    Column("selector", Text, nullable=False),
    Column("at", Float, nullable=False),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("incident", Text),
    Column("ends_at", Float, nullable=False),
)

blocks: Final = Table(
    "blocks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("selector", Text, nullable=False),
    Column("rule", _Whole),
    Column("at", Float, nullable=False),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("until", Float),
    Column("lifted_at", Float),
)

agents: Final = Table(
    "agents",
    metadata,
    Column("name", Text, primary_key=True),
    Column("jwk", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("created_by", Text, nullable=False),
)

enrollments: Final = Table(
    "enrollments",
    metadata,
    Column("code_digest", LargeBinary, primary_key=True),
    Column("name", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", Float, nullable=False),
)

keys: Final = Table(
    "keys",
    metadata,
    Column("kid", Text, primary_key=True),
    Column("use", Text, nullable=False),
    Column("alg", Text, nullable=False),
    Column("public_jwk", Text, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("active_at", Float, nullable=False),
    Column("retires_at", Float),
    Column("revoked", Boolean, nullable=False),
)

single_use: Final = Table(
    "single_use",
    metadata,
    Column("key", LargeBinary, primary_key=True),
    Column("expires_at", _Whole, nullable=False),
    sqlite_with_rowid=False,
)
Index("single_use_expiry", single_use.c.expires_at)

rates: Final = Table(
    "rates",
    metadata,
    Column("key", Text, primary_key=True),
    Column("step", _Whole, primary_key=True),
    Column("count", _Whole, nullable=False),
    sqlite_with_rowid=False,
)
Index("rates_step", rates.c.step)

idempotency: Final = Table(
    "idempotency",
    metadata,
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("ref", Text, nullable=False),
    Column("expires_at", _Whole, nullable=False),
)
Index("idempotency_expiry", idempotency.c.expires_at)

checkpoints: Final = Table(
    "checkpoints",
    metadata,
    Column("size", _Whole, primary_key=True, autoincrement=False),
    Column("root", LargeBinary, nullable=False),
    Column("note", Text),
    Column("at", Float, nullable=False),
)
