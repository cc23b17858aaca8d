"""What is known of the ledger beside it, held against it quickly: by the checkpoints that it has itself.

Every checkpoint that left the broker was stored before, so that a ledger without it is older, or another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sqlalchemy import Connection, select

from broker.core.tree_head import KnownHead
from broker.ledger import schema
from broker.ledger.sharing.head import Head


def accepted_heads(connection: Connection) -> Mapping[KnownHead, int]:
    """Return what was accepted as lost when an older ledger was restored, with the number of the rule of that."""
    rows = connection.execute(select(schema.accepted_heads))
    return {KnownHead(row.size, row.root): row.rule for row in rows}


def contradictions(connection: Connection, known: Mapping[str, KnownHead]) -> Iterator[str]:
    """Yield what does not fit the ledger, in plain words, but for what was accepted. ``known`` is by who knows it."""
    size = Head.read(connection).frontier.size
    accepted = accepted_heads(connection)
    for says, head in known.items():
        if head in accepted:
            continue
        if head.size > size:
            yield f"{says} is of {head.size} entries, but there are {size}"
        elif not _had(connection, head):
            yield f"{says} is of {head.size} entries with another root than this ledger had then"


def _had(connection: Connection, head: KnownHead) -> bool:
    """Whether the ledger had this root when it had this many entries, as far as its own checkpoints say."""
    if head.size == 0:
        return True
    table = schema.checkpoints.c
    stored: bytes | None = connection.scalar(select(table.root).where(table.size == head.size))
    return stored == head.root
