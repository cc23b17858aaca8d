"""What the table of leases must hold, derived from the entries alone.

Rows that are gone were forgotten in time, which is no error. A row that no entry recorded, or that says something else,
is one: a lease could otherwise be kept from being revoked by writing into the database.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, select

from broker.core.entry import Kind
from broker.core.lease import LeaseStatus
from broker.ledger import schema
from broker.ledger.rows import read_object

_RUNNING: Final = frozenset({LeaseStatus.OPENING.value, LeaseStatus.LIVE.value})


@dataclass(slots=True)
class _Lease:
    """A lease as its entries tell it."""

    agent: object
    secret: object
    backend: object
    ends_by: object
    status: str
    until: object = None
    handle: object = None
    rule: object = None
    held: bool = False


class DerivedLeases:
    """Follows the entries in their order, then compares the table with what they come to."""

    def __init__(self) -> None:
        """Nothing is recorded yet."""
        self._leases: dict[str, _Lease] = {}
        self.stored: Container[str] | None = None
        """The leases to remember; None: all of them."""

    def take(self, members: Mapping[str, Any]) -> None:
        """Take up an entry."""
        kind, ref = members["kind"], str(members.get("ref"))
        if kind == Kind.LEASE_INTENDED:
            if self.stored is not None and ref not in self.stored:
                return
            self._leases[ref] = _Lease(
                members.get("agent"),
                members.get("secret"),
                members.get("backend"),
                members.get("ends_by"),
                LeaseStatus.OPENING.value,
            )
        elif kind == Kind.LEASES_CONFIRMED:
            for lease in self._leases.values():
                lease.held = False
        elif kind == Kind.RESTORE_ACCEPTED:
            for lease in self._leases.values():
                if lease.status in _RUNNING:
                    lease.status, lease.held = LeaseStatus.RETRYING.value, True
                    lease.rule = members.get("number")
        elif (known := self._leases.get(ref)) is not None:
            self._move(known, kind, members)

    def _move(self, known: _Lease, kind: str, members: Mapping[str, Any]) -> None:
        match kind:
            case Kind.LEASE_SEALED:
                known.status, known.until = LeaseStatus.LIVE.value, members.get("until")
                known.handle = members.get("handle", {})
            case Kind.LEASE_RENEWED:
                known.until = members.get("until")
            case Kind.LEASE_ENDED:
                known.status, known.held = LeaseStatus.RETRYING.value, members.get("held") is True
                known.handle, known.rule = members.get("handle", known.handle), members.get("rule")
            case Kind.LEASE_MISSED if members.get("stuck") is True:
                known.status = LeaseStatus.STUCK.value
            case Kind.LEASE_RETRIED:
                known.status, known.held = LeaseStatus.RETRYING.value, False
            case Kind.LEASE_SETTLED:
                known.status, known.held = str(members.get("status")), False
            case _:
                pass

    def compare(self, connection: Connection, *, whole: bool) -> Iterator[str]:
        """Yield what the table says differently; see :meth:`broker.ledger.verifying.derived.Derived.compare`."""
        table = schema.leases.c
        names = ("agent", "secret", "backend", "ends_by", "status", "expires_at", "held", "handle", "rule")
        for row in connection.execute(select(table.id, *(table[name] for name in names))):
            known = self._leases.get(row.id)
            if known is None:
                if whole:
                    yield f"the lease {row.id!r} is among the leases, but no entry recorded it"
            elif (row.agent, row.secret, row.backend, row.ends_by) != (
                known.agent,
                known.secret,
                known.backend,
                known.ends_by,
            ):
                yield f"the lease {row.id!r} differs from what was recorded when it was taken"
            elif (row.status, row.expires_at, row.held) != (known.status, known.until, known.held):
                yield f"the lease {row.id!r} is {row.status}, which is not what its entries come to"
            elif row.rule != known.rule or known.handle not in (None, _object(row.handle)):
                yield f"the lease {row.id!r} has another rule or handle than was recorded"


def _object(text: str) -> object:
    """Return a stored JSON object; None if it is none."""
    try:
        return read_object(text)
    except ValueError:
        return None
