"""Reading what the ledger holds: entries, rules, agents, keys, the head of the tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, Select, select

from broker.core.change import RegisteredAgent, StoredKey
from broker.core.entry import decode
from broker.core.errors import Code, Unavailable
from broker.core.personal import MEMBER, merged, read_personal
from broker.core.rules import Rule
from broker.ledger import schema
from broker.ledger.rows import page_of, read_agent, read_key, read_rule
from broker.ledger.sharing.head import Head
from broker.ports import Idempotent, Record, TreeHead

RECENT: Final = 100_000
"""How far back the ledger is looked through for what an agent did of late."""

ENTRY: Final = select(schema.entries.c.seq, schema.entries.c.body, schema.entries.c.personal)
"""What :func:`read_record` reads."""


def registered_agent(connection: Connection, name: str) -> RegisteredAgent | None:
    """Return a registered agent by its name."""
    row = connection.execute(select(schema.agents).where(schema.agents.c.name == name)).one_or_none()
    return None if row is None else read_agent(row)


def registered_agents(connection: Connection) -> Sequence[RegisteredAgent]:
    """Return all registered agents by name."""
    return [read_agent(row) for row in connection.execute(select(schema.agents).order_by(schema.agents.c.name))]


def enrollment(connection: Connection, code_digest: bytes, now: float) -> str | None:
    """Return whom an enrolment code is for, if it can still be used."""
    table = schema.enrollments.c
    return connection.scalar(select(table.name).where(table.code_digest == code_digest, table.expires_at > now))


def keys(connection: Connection) -> Sequence[StoredKey]:
    """Return the broker's own keys, the oldest first."""
    table = schema.keys.c
    return [read_key(row) for row in connection.execute(select(schema.keys).order_by(table.created_at, table.kid))]


def rules(connection: Connection, before: int | None, limit: int) -> Sequence[Rule]:
    """Return rules below a number, the youngest first."""
    number = schema.rules.c.number
    query = select(schema.rules).order_by(number.desc()).limit(page_of(limit))
    if before is not None:
        query = query.where(number < before)
    return [read_rule(row) for row in connection.execute(query)]


def rule(connection: Connection, number: int) -> Rule | None:
    """Return a rule by its number."""
    row = connection.execute(select(schema.rules).where(schema.rules.c.number == number)).one_or_none()
    return None if row is None else read_rule(row)


def idempotent(connection: Connection, key: str) -> Idempotent | None:
    """Return what an idempotency key was used for."""
    table = schema.idempotency.c
    row = connection.execute(select(table.fingerprint, table.ref).where(table.key == key)).one_or_none()
    return None if row is None else Idempotent(row.fingerprint, row.ref)


def record(connection: Connection, seq: int) -> Record | None:
    """Return the entry at a place."""
    return _first(connection, ENTRY.where(schema.entries.c.seq == seq))


def record_of(connection: Connection, ref: str) -> Record | None:
    """Return the oldest entry that a reference names."""
    table = schema.entries.c
    return _first(connection, ENTRY.where(table.ref == ref).order_by(table.seq).limit(1))


def records(connection: Connection, after: int, limit: int) -> Sequence[Record]:
    """Return entries above a place, the oldest first."""
    seq = schema.entries.c.seq
    query = ENTRY.where(seq > after).order_by(seq).limit(page_of(limit))
    return [read_record(*row) for row in connection.execute(query)]


def recent(connection: Connection, agent: str, limit: int) -> Sequence[Record]:
    """Return the youngest entries about an agent, among the last :data:`RECENT`."""
    table = schema.entries.c
    oldest = Head.read(connection).frontier.size - RECENT
    query = ENTRY.where(table.agent == agent, table.seq >= oldest).order_by(table.seq.desc()).limit(page_of(limit))
    return [read_record(*row) for row in connection.execute(query)]


def latest(connection: Connection, kind: str) -> Record | None:
    """Return the youngest entry of a kind, among the last :data:`RECENT`."""
    table = schema.entries.c
    oldest = Head.read(connection).frontier.size - RECENT
    query = ENTRY.where(table.kind == kind, table.seq >= oldest).order_by(table.seq.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else read_record(*row)


def tree_head(connection: Connection) -> TreeHead:
    """Return size, root and epoch."""
    head = Head.read(connection)
    return TreeHead(head.frontier.size, head.frontier.root(), head.epoch)


def _first(connection: Connection, query: Select[int, bytes, bytes | None]) -> Record | None:
    row = connection.execute(query).one_or_none()
    return None if row is None else read_record(*row)


def read_record(seq: int, body: bytes, stored: bytes | None) -> Record:
    """Return an entry with its personal members, if they are ``stored`` still. Raises :class:`Unavailable`."""
    try:
        leaf = decode(body)
        personal = None if stored is None else read_personal(stored, leaf.get(MEMBER))
    except ValueError as error:
        raise Unavailable(Code.LEDGER_CORRUPT, f"the ledger is damaged: entry {seq} cannot be read") from error
    return Record(seq, body, merged(leaf, None if personal is None else personal.members), personal)
