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

REVISION: Final = "0009"
"""The newest migration. A ledger that has it is opened without loading what migrates."""

COMPATIBILITY: Final = 1
"""The meaning of the stored data. A broker refuses a ledger whose number is not its own."""

metadata: Final = MetaData()

# SQLite gives a row its number only in a column that is spelled INTEGER; it has 64 bits all the same.
_Whole: Final = BigInteger().with_variant(Integer(), "sqlite")

_TYPES: Final = {"at": _Whole, "epoch": _Whole, "expires_at": _Whole}
_COLUMN_NAMES: Final = tuple(field.name for field in fields(Columns))

ENTRY_COLUMNS: Final = ("seq", "leaf", *_COLUMN_NAMES, "body", "personal")
"""The columns of ``entries`` in their stored order. ``body`` is late, so that reading those before does not load it.

``personal`` is the salt and the canonical JSON of the personal members; NULL if there are none, or none any more.
"""

entries: Final = Table(
    "entries",
    metadata,
    Column("seq", _Whole, primary_key=True, autoincrement=False),
    Column("leaf", LargeBinary, nullable=False),
    *(Column(name, _TYPES.get(name, Text), nullable=name not in {"kind", "at"}) for name in _COLUMN_NAMES),
    Column("body", LargeBinary, nullable=False),
    Column("personal", LargeBinary),
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
    Column("changed", _Whole, nullable=False, server_default="0"),
)
"""``changed`` is the size after the last entry that changed what processes keep in memory; see ``head.Head``."""

meta: Final = Table(
    "meta",
    metadata,
    Column("one", Integer, CheckConstraint("one = 1"), primary_key=True, autoincrement=False),
    Column("ledger", Text, nullable=False),
    Column("compatibility", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
)

nodes: Final = Table(
    "nodes",
    metadata,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("number", _Whole, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
"""The roots of full tiles: what the Merkle tree is above its leaves, which are in ``entries``. One row for 256."""

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

anchorings: Final = Table(
    "anchorings",
    metadata,
    Column("anchor", Text, primary_key=True),
    Column("size", _Whole, primary_key=True, autoincrement=False),
    Column("root", LargeBinary, nullable=False),
    Column("at", Float, nullable=False),
    Column("receipt", Text, nullable=False),
    Column("cosignatures", Text, nullable=False),
)
"""Which checkpoints were placed where; only the last ones of each anchor."""

accepted_heads: Final = Table(
    "accepted_heads",
    metadata,
    Column("size", _Whole, primary_key=True, autoincrement=False),
    Column("root", LargeBinary, primary_key=True),
    Column("rule", _Whole, nullable=False),
    sqlite_with_rowid=False,
)
"""What others know of a ledger that is lost, since an older one was accepted in its place, with the rule of that."""

tasks: Final = Table(
    "tasks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("path", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("opened_at", Float, nullable=False),
    Column("deadline", _Whole, nullable=False),
    Column("ceiling", Text, nullable=False),
    Column("labels", Text, nullable=False),
    Column("idle_timeout", _Whole),
    Column("flagged", Boolean, nullable=False),
    Column("implicit", Boolean, nullable=False),
    Column("heartbeat_at", Float, nullable=False),
    Column("holds_until", Float, nullable=False),
    Column("closed_at", Float),
    Column("closed_because", Text),
)
"""``path`` is the ids of all ancestors from the root down, each with a ``/`` behind it: a range of it is a subtree."""
Index("tasks_path", tasks.c.path)
Index("tasks_owner", tasks.c.owner, tasks.c.id)
_open: Final = tasks.c.closed_at.is_(None)
Index("tasks_open", tasks.c.deadline, sqlite_where=_open, postgresql_where=_open)

budgets: Final = Table(
    "budgets",
    metadata,
    Column("task", Text, primary_key=True),
    Column("resource", Text, primary_key=True),
    Column("limit", _Whole, nullable=False),
    Column("used", _Whole, nullable=False),
    Column("reserved", _Whole, nullable=False),
)

actions: Final = Table(
    "actions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("count", _Whole, nullable=False),
    Column("task", Text, nullable=False),
    Column("token", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("audience", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("reserved_at", Float, nullable=False),
    Column("settle_by", Float, nullable=False),
    Column("target", Text),
    Column("digest", Text),
    Column("outcome", Text),
    Column("result", Text),
    Column("settled_at", Float),
)
Index("actions_task", actions.c.task, actions.c.id)
Index("actions_agent", actions.c.agent, actions.c.id)
Index("actions_settle_by", actions.c.settle_by)

approvals: Final = Table(
    "approvals",
    metadata,
    Column("id", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("quorum", _Whole, nullable=False),
    Column("expires_at", _Whole, nullable=False),
    Column("request", Text, nullable=False),
    Column("decided_at", Float),
    Column("used_at", Float),
)
Index("approvals_digest", approvals.c.digest)
Index("approvals_state", approvals.c.state, approvals.c.id)

votes: Final = Table(
    "votes",
    metadata,
    Column("approval", Text, primary_key=True),
    Column("approver", Text, primary_key=True),
    Column("approve", Boolean, nullable=False),
    Column("vote", Text, nullable=False),
    Column("at", Float, nullable=False),
)

leases: Final = Table(
    "leases",
    metadata,
    Column("id", Text, primary_key=True),
    Column("secret", Text, nullable=False),
    Column("backend", Text, nullable=False),
    Column("tier", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("issuer", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("on_behalf_of", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("facts", Text, nullable=False),
    Column("epoch", _Whole, nullable=False),
    Column("taken_at", Float, nullable=False),
    Column("ends_by", _Whole, nullable=False),
    Column("allowed_by", Text, nullable=False),
    Column("token", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("handle", Text, nullable=False),
    Column("expires_at", _Whole),
    Column("good_until", _Whole),
    Column("revocable", Boolean, nullable=False),
    Column("renewable", Boolean, nullable=False),
    Column("fingerprint", Text),
    Column("because", Text),
    Column("rule", _Whole),
    Column("attempts", _Whole, nullable=False),
    Column("next_attempt_at", Float),
    Column("last_error", Text),
    Column("ended_at", Float),
    Column("settled_at", Float),
    Column("note", Text),
    Column("held", Boolean, nullable=False),
)
"""``facts`` as :func:`broker.core.selector.facts_text` writes them; ``handle`` is JSON and holds no secret."""
_unsettled: Final = leases.c.settled_at.is_(None)
Index("leases_agent", leases.c.agent, leases.c.role, sqlite_where=_unsettled, postgresql_where=_unsettled)
Index("leases_end", leases.c.ends_by, sqlite_where=_unsettled, postgresql_where=_unsettled)
Index("leases_work", leases.c.next_attempt_at, sqlite_where=_unsettled, postgresql_where=_unsettled)
Index("leases_task", leases.c.task)
Index("leases_rule", leases.c.rule)

verifiers: Final = Table(
    "verifiers",
    metadata,
    Column("agent", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("epoch", _Whole, nullable=False),
    Column("max_age", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
    Column("since", Float, nullable=False),
    sqlite_with_rowid=False,
)
"""Presence, not record. Floats of 53 bits in PostgreSQL, too; ``seen_at`` and ``since`` by the database's clock."""

replicas: Final = Table(
    "replicas",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", _Whole, nullable=False),
    Column("version", Text, nullable=False),
    Column("policy", Text, nullable=False),
    Column("epoch", _Whole, nullable=False),
    Column("max_staleness", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
    Column("since", Float, nullable=False),
)
