"""Count what was used of the secrets in a policy: who was given which, for how long, and how many were alive at once.

What is alive when counting begins was taken before, so the passes over intents and ends go back to the first entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import ColumnElement, Connection, func, literal, select, union_all

from broker.core.entry import Kind
from broker.core.usage import SecretUse
from broker.ledger import schema
from broker.ledger.databases.expressions import each_item, lesser, member, number

MOST: Final = 10_000
"""How many secrets of roles are listed; what is beyond is not known to be unused."""

_MILLISECONDS: Final = 1000
_table: Final = schema.entries.c


@dataclass(slots=True)
class LeaseUsageCount:
    """The counting of what was leased since a time (Unix seconds). Run each of :meth:`passes`, then look.

    ``peaks`` are the most leases of one agent that were alive at once, by role: alive is what is not settled, as the
    limit has it. ``ceilings`` are the secrets that tasks of a role were opened for (role, secret).
    """

    since: float
    complete: bool = True
    secrets: list[SecretUse] = field(default_factory=list)
    peaks: dict[str, int] = field(default_factory=dict)
    ceilings: set[tuple[str, str]] = field(default_factory=set)

    def passes(self) -> Sequence[Callable[[Connection], None]]:
        """Return what is to be run, each in a read transaction of its own."""
        return (self._count_secrets, self._count_peaks, self._read_ceilings)

    def _count_secrets(self, connection: Connection) -> None:
        """Count the leases that were handed out, and how long the longest of each secret was held.

        It ended when its agent, a rule or the reaper said so, and at the latest when it was to end if not renewed.
        """
        last = select(_table.ref, func.max(number(_table.body, "until")).label("until")).where(
            _table.kind == Kind.LEASE_RENEWED.value
        )
        renewed = last.group_by(_table.ref).subquery().c
        first = select(_table.ref, func.min(_table.at).label("at")).where(_table.kind == Kind.LEASE_ENDED.value)
        ended = first.group_by(_table.ref).subquery().c
        sealed = schema.entries.outerjoin(renewed.ref.table, renewed.ref == _table.ref)
        sealed = sealed.outerjoin(ended.ref.table, ended.ref == _table.ref)
        until = func.coalesce(renewed.until, number(_table.body, "until")) * _MILLISECONDS
        held = lesser(until, func.coalesce(ended.at, until)) - _table.at
        secret = member(_table.body, "secret")
        query = (
            select(_table.role, secret, func.count(), func.max(held), func.max(_table.at))
            .select_from(sealed)
            .where(_table.kind == Kind.LEASE_SEALED.value, self._is_young())
            .group_by(_table.role, secret)
            .limit(MOST + 1)
        )
        rows = connection.execute(query).all()
        self.complete = len(rows) <= MOST
        self.secrets = [
            SecretUse(
                role=role,
                secret=name,
                leases=leases,
                longest=max(0, -(-longest // _MILLISECONDS)),
                last_at=last_at / _MILLISECONDS,
            )
            for role, name, leases, longest, last_at in rows[:MOST]
        ]

    def _count_peaks(self, connection: Connection) -> None:
        """Go through intents (one more) and settlements (one less) of each agent in each role, in their order."""
        changes = union_all(
            *(
                select(_table.role, _table.agent, _table.at, _table.seq, literal(by).label("by")).where(
                    _table.kind == kind.value
                )
                for kind, by in ((Kind.LEASE_INTENDED, 1), (Kind.LEASE_SETTLED, -1))
            )
        ).subquery()
        alive = func.sum(changes.c.by).over(partition_by=(changes.c.role, changes.c.agent), order_by=changes.c.seq)
        following = func.lead(changes.c.at).over(partition_by=(changes.c.role, changes.c.agent), order_by=changes.c.seq)
        each = select(changes.c.role, alive.label("alive"), following.label("until")).subquery().c
        start = int(self.since * _MILLISECONDS)
        lasted = each.until.is_(None) | (each.until >= start)
        query = select(each.role, func.max(each.alive)).where(lasted).group_by(each.role)
        for role, most in connection.execute(query):
            if most > 0:
                self.peaks[role] = most

    def _read_ceilings(self, connection: Connection) -> None:
        named = each_item(_table.body, "secrets")
        query = (
            select(_table.role, named.c.value)
            .select_from(schema.entries, named)
            .where(_table.kind == Kind.TASK_OPENED.value, self._is_young())
            .distinct()
            .limit(MOST + 1)
        )
        self.ceilings = {(role, secret) for role, secret in connection.execute(query)}
        self.complete = self.complete and len(self.ceilings) <= MOST

    def _is_young(self) -> ColumnElement[bool]:
        return _table.at >= int(self.since * _MILLISECONDS)
