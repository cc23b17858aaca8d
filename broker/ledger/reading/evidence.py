"""Gather what a report says of a time from a ledger file, entry by entry."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, select

from broker.core.entry import Kind
from broker.core.errors import BrokerError
from broker.core.reporting import Evidence
from broker.core.story import facts_of, rule_of
from broker.ledger import schema
from broker.ledger.reading.records import ENTRY, read_record

MAX_TOKENS: Final = 2_000_000
"""How many tokens are looked at to count those that rules covered, for all rules together."""

_PIECE: Final = 1000
_table: Final = schema.entries.c


def gather(connection: Connection, since: float, until: float) -> Evidence:
    """Return the evidence of entries from ``since`` until ``until`` (Unix seconds)."""
    evidence = Evidence()
    query = ENTRY.where(_table.at >= int(since * 1000), _table.at < int(until * 1000))
    for piece in connection.execute(query.order_by(_table.seq)).partitions(_PIECE):
        for row in piece:
            evidence.take(row.seq, read_record(*row).members)
    _count_tokens(connection, evidence)
    placed = schema.anchorings.c
    for row in connection.execute(select(placed.anchor, placed.size, placed.at).order_by(placed.anchor, placed.size)):
        evidence.anchored[row.anchor] = row.size, row.at
    return evidence


def _count_tokens(connection: Connection, evidence: Evidence) -> None:
    """Count the tokens that each rule covered while their time was not over; stop when that would take too long."""
    left = MAX_TOKENS
    for number, revocation in evidence.revocations.rules.items():
        try:
            rule = rule_of(revocation.members)
        except (BrokerError, KeyError):
            continue
        ends_at = select(schema.rules.c.ends_at).where(schema.rules.c.number == number).scalar_subquery()
        query = ENTRY.where(
            _table.kind == Kind.TOKEN_ISSUED.value,
            _table.expires_at.between(int(rule.at), ends_at),
            _table.seq < revocation.seq,
            _table.epoch < number,
        )
        tokens = 0
        for row in connection.execute(query.limit(left + 1)):
            left -= 1
            facts = facts_of(read_record(*row).members)
            tokens += rule.selector.selects(facts)
        if left < 0:
            return
        revocation.tokens = tokens
