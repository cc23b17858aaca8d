"""Up to which entry a ledger can be archived: whole tiles, older than was asked for and than anything that is alive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection, func, select

from broker.core.entry import Kind
from broker.core.tiles import TILE_WIDTH
from broker.ledger import schema
from broker.ledger.reading.records import RECENT
from broker.ledger.sharing.head import Head

NEWEST: Final = RECENT
"""How many of the last entries always stay: the broker looks back so far for what was done of late."""

_entry: Final = schema.entries.c


def first_entry(connection: Connection) -> int:
    """Return the place of the first entry that is there; the size of the ledger if none is."""
    first = connection.scalar(select(func.min(_entry.seq)))
    return Head.read(connection).frontier.size if first is None else first


def border(connection: Connection, before: float, now: float, *, newest: int = NEWEST) -> int:
    """Return the first entry that must stay, at the beginning of a tile.

    What stays are entries from ``before`` on (Unix seconds), the ``newest`` ones, and all from the first on that
    something alive at ``now`` refers to. Agents, keys and blocks do not count: they are in tables of their own.
    """
    size = Head.read(connection).frontier.size
    young = connection.scalar(select(_entry.seq).where(_entry.at >= int(before * 1000)).order_by(_entry.seq).limit(1))
    places = [size - newest, size if young is None else young, *_living(connection, now)]
    least = max(0, min(places))
    return least - least % TILE_WIDTH


def _living(connection: Connection, now: float) -> Iterator[int]:
    """Yield the first places of what is alive; tasks, leases, actions and approvals count while they have a row."""
    living = _entry.kind == Kind.TOKEN_ISSUED.value, _entry.expires_at > now
    tables = (schema.tasks, schema.leases, schema.actions, schema.approvals)
    rules = select(schema.rules.c.id).where(schema.rules.c.ends_at > now)
    for conditions in (living, *((_entry.ref.in_(ids),) for ids in (rules, *(select(each.c.id) for each in tables)))):
        place = connection.scalar(select(func.min(_entry.seq)).where(*conditions))
        if place is not None:
            yield place
