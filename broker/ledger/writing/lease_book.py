"""Leases inside one transaction: loaded, judged, changed, stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, bindparam, func, insert, select, update

from broker.core.change import (
    AddLease,
    Change,
    EndLease,
    Guard,
    LeaseIn,
    LeasesWithin,
    MissLease,
    ReleaseHeldLeases,
    RenewLease,
    RetryLease,
    SealLease,
    SettleLease,
    Write,
)
from broker.core.errors import Code, GuardFailed
from broker.core.lease import REVOKED, Lease, LeaseState, LeaseStatus
from broker.core.rules import Rule
from broker.core.selector import fact_line, facts_text, read_facts
from broker.ledger import schema
from broker.ledger.databases.expressions import has_text
from broker.ledger.rows import read_object
from broker.ledger.writing.task_rows import chunks, path_text

LEASE_GUARDS: Final = (LeasesWithin, LeaseIn)
LEASE_WRITES: Final = (
    AddLease,
    SealLease,
    RenewLease,
    EndLease,
    MissLease,
    SettleLease,
    RetryLease,
    ReleaseHeldLeases,
)

_encode: Final = msgspec.json.Encoder(order="sorted").encode
_LEASE_FIELDS: Final = tuple(field.name for field in fields(Lease) if field.name not in {"facts", "path"})
_STATE_FIELDS: Final = tuple(field.name for field in fields(LeaseState) if field.name not in {"lease", "handle"})


@dataclass(slots=True)
class _Known:
    """A lease as it changes."""

    state: LeaseState
    stored: bool
    changed: bool = False


class LeaseBook:
    """The leases that a batch is about, and how many leases the agents have that it limits."""

    def __init__(self) -> None:
        """Nothing is loaded."""
        self._leases: dict[str, _Known] = {}
        self._counts: dict[tuple[str, str], int] = {}
        self._released_at: float | None = None

    @classmethod
    def load(cls, connection: Connection, guards: Sequence[Guard], writes: Sequence[Write]) -> LeaseBook:
        """Read every lease that these guards and writes name, and count what the guards limit."""
        book = cls()
        ids = {guard.lease_id for guard in guards if isinstance(guard, LeaseIn)}
        ids |= {write.lease.id for write in writes if isinstance(write, AddLease)}
        for state in load_leases(connection, list(ids)):
            book._leases[state.lease.id] = _Known(state, stored=True)
        limited = {(guard.agent, guard.role) for guard in guards if isinstance(guard, LeasesWithin)}
        # Whoever has a lease of the batch is counted too: what is settled in it makes room in it.
        book._counts = {pair: _count(connection, *pair) for pair in limited}
        return book

    def judge(self, change: Change) -> GuardFailed | None:
        """Return why a change may not be applied, or None."""
        for guard in change.guards:
            match guard:
                case LeasesWithin(agent, role, limit):
                    if self._counts[agent, role] >= limit:
                        text = f"{limit} leases of this agent are alive: give one back, or wait until one has ended"
                        return GuardFailed(Code.LEASE_LIMIT, text)
                case LeaseIn(lease_id, states):
                    known = self._leases.get(lease_id)
                    if known is None:
                        return GuardFailed(Code.NOT_FOUND, "there is no such lease")
                    if known.state.status not in states:
                        return GuardFailed(Code.LEASE_ENDED, f"the lease is {known.state.status.value}")
                case _:
                    pass
        if any(isinstance(write, AddLease) and write.lease.id in self._leases for write in change.writes):
            return GuardFailed(Code.CONFLICT, "a lease of this id is stored already")
        return None

    def apply(self, change: Change) -> None:
        """Take up what a change does that was found good."""
        for write in change.writes:
            match write:
                case AddLease(lease, handle):
                    state = LeaseState(lease=lease, status=LeaseStatus.OPENING, handle=handle)
                    self._leases[lease.id] = _Known(state, stored=False)
                    self._count(lease, 1)
                case ReleaseHeldLeases(at):
                    self._release(at)
                case SealLease() | RenewLease() | EndLease() | MissLease() | SettleLease() | RetryLease():
                    self._move(write)
                case _:
                    pass

    def _release(self, at: float) -> None:
        """Let every held lease go; those that the batch holds after this stay held."""
        self._released_at = at
        for known in self._leases.values():
            if known.state.held:
                known.state, known.changed = replace(known.state, held=False, next_attempt_at=at), True

    def _move(self, write: _Move) -> None:
        known = self._leases[write.lease_id]
        known.state, known.changed = moved(known.state, write), True
        if isinstance(write, SettleLease):
            self._count(known.state.lease, -1)

    def _count(self, lease: Lease, by: int) -> None:
        pair = (lease.agent, lease.role)
        if pair in self._counts:
            self._counts[pair] += by

    def flush(self, connection: Connection) -> None:
        """Write what has changed."""
        table = schema.leases
        if self._released_at is not None:
            held = update(table).where(table.c.held, table.c.settled_at.is_(None))
            connection.execute(held.values(held=False, next_attempt_at=self._released_at))
        new = [known.state for known in self._leases.values() if not known.stored]
        if new:
            connection.execute(insert(table), [lease_row(state) for state in new])
        changed = [known.state for known in self._leases.values() if known.stored and known.changed]
        if changed:
            connection.execute(_UPDATE, [_state_row(state) | {"i": state.lease.id} for state in changed])


_Move = SealLease | RenewLease | EndLease | MissLease | SettleLease | RetryLease


def moved(state: LeaseState, write: _Move) -> LeaseState:
    """Return a lease as a write leaves it."""
    changes: dict[str, Any]
    match write:
        case SealLease():
            changes = {
                "status": LeaseStatus.LIVE,
                "handle": write.handle,
                "fingerprint": write.fingerprint,
                "expires_at": write.expires_at,
                "good_until": write.good_until,
                "renewable": write.renewable,
                "revocable": write.revocable,
            }
        case RenewLease(_, expires_at, good_until):
            changes = {"expires_at": expires_at, "good_until": good_until}
        case EndLease():
            changes = {
                "status": LeaseStatus.RETRYING,
                "handle": state.handle if write.handle is None else write.handle,
                "because": write.because,
                "rule": write.rule,
                "ended_at": write.at,
                "next_attempt_at": write.at,
                "held": False,
            }
        case MissLease():
            changes = {
                "status": state.status if write.next_attempt_at is not None else LeaseStatus.STUCK,
                "attempts": state.attempts + 1,
                "last_error": write.error,
                "next_attempt_at": write.next_attempt_at,
            }
        case SettleLease():
            changes = {
                "status": write.status,
                "settled_at": write.at,
                "ended_at": write.at if state.ended_at is None else state.ended_at,
                "note": write.note,
                "good_until": write.good_until if write.status is LeaseStatus.EXPIRES_ONLY else state.good_until,
                "next_attempt_at": None,
                "held": False,
            }
        case RetryLease(_, at):
            changes = {"status": LeaseStatus.RETRYING, "attempts": 0, "next_attempt_at": at, "held": False}
    return replace(state, **changes)


def load_leases(connection: Connection, ids: Sequence[str]) -> list[LeaseState]:
    """Return the leases of these ids, as far as they are stored."""
    found: list[LeaseState] = []
    for some in chunks(ids):
        rows = connection.execute(select(schema.leases).where(schema.leases.c.id.in_(some)))
        found += [read_lease(row) for row in rows]
    return found


def lease_row(state: LeaseState) -> dict[str, Any]:
    """Return the row of a lease."""
    lease = state.lease
    return {
        **{name: getattr(lease, name) for name in _LEASE_FIELDS},
        "path": path_text(lease.path),
        "facts": facts_text(lease.facts) or "",
        **_state_row(state),
    }


def _state_row(state: LeaseState) -> dict[str, Any]:
    row = {name: getattr(state, name) for name in _STATE_FIELDS}
    return row | {"status": state.status.value, "handle": _encode(dict(state.handle)).decode()}


def read_lease(row: Row[Any]) -> LeaseState:
    """Read a lease from its row."""
    lease = Lease(
        **{name: getattr(row, name) for name in _LEASE_FIELDS},
        path=tuple(task for task in row.path.split("/") if task),
        facts=read_facts(row.facts),
    )
    state: dict[str, Any] = {name: getattr(row, name) for name in _STATE_FIELDS}
    handle: Mapping[str, str] = read_object(row.handle)
    return LeaseState(lease=lease, handle=handle, **(state | {"status": LeaseStatus(row.status)}))


def hold_running(connection: Connection, rule: Rule) -> None:
    """End every lease that is being taken or lives by a rule, and hold it until an operator confirms."""
    table = schema.leases
    running = table.c.status.in_((LeaseStatus.OPENING.value, LeaseStatus.LIVE.value))
    ended = {"status": LeaseStatus.RETRYING.value, "because": REVOKED, "rule": rule.number, "held": True}
    connection.execute(
        update(table)
        .where(table.c.settled_at.is_(None), running)
        .values(**ended, ended_at=rule.at, next_attempt_at=rule.at)
    )


def latest_end(connection: Connection, token: str | None = None) -> float:
    """Return when the last lease that is not settled must have ended; of those taken with one token, if it is given."""
    table = schema.leases.c
    query = select(func.max(table.ends_by)).where(table.settled_at.is_(None))
    if token is not None:
        query = query.where(has_text(table.facts, fact_line(("token", token))))
    return float(connection.scalar(query) or 0)


_leases: Final = schema.leases
_UPDATE: Final = (
    update(_leases)
    .where(_leases.c.id == bindparam("i"))
    .values({name: bindparam(name) for name in (*_STATE_FIELDS, "handle")})
)


def _count(connection: Connection, agent: str, role: str) -> int:
    table = schema.leases.c
    query = select(func.count()).where(table.agent == agent, table.role == role, table.settled_at.is_(None))
    return connection.scalar(query) or 0
