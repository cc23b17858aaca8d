"""What the ledger records of a lease after its intent. ``origin`` is what is recorded of where a request came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from broker.core.entry import Entry, Kind, entry
from broker.core.lease import Lease, LeaseState, LeaseStatus


def sealed_entry(state: LeaseState, now: float) -> Entry:
    """Return the entry of a secret that is about to be handed out: its keyed fingerprint, and how it can be ended."""
    return entry(
        Kind.LEASE_SEALED,
        now,
        **_of(state.lease),
        fingerprint=state.fingerprint,
        handle=dict(state.handle),
        until=state.expires_at,
        good_until=state.good_until,
        renewable=state.renewable,
        revocable=state.revocable,
    )


def renewed_entry(lease: Lease, until: int, good_until: int, now: float, origin: Mapping[str, str]) -> Entry:
    """Return the entry of a lease that goes on."""
    return entry(Kind.LEASE_RENEWED, now, **_of(lease), until=until, good_until=good_until, **origin)


def ended_entry(
    lease: Lease,
    because: str,
    now: float,
    *,
    rule: int | None = None,
    handle: Mapping[str, str] | None = None,
    origin: Mapping[str, str] | None = None,
    reason: str | None = None,
) -> Entry:
    """Return the entry of a lease that has ended, and is to be revoked."""
    return entry(
        Kind.LEASE_ENDED,
        now,
        **_of(lease),
        because=because,
        rule=rule,
        handle=None if handle is None else dict(handle),
        reason=reason,
        **(origin or {}),
    )


def missed_entry(lease: Lease, error: str, attempts: int, next_attempt_at: float | None, now: float) -> Entry:
    """Return the entry of an attempt to revoke that failed; without a next one, the lease is stuck."""
    return entry(
        Kind.LEASE_MISSED,
        now,
        **_of(lease),
        error=error,
        attempts=attempts,
        next_attempt_at=None if next_attempt_at is None else int(next_attempt_at),
        stuck=True if next_attempt_at is None else None,
    )


def settled_entry(
    lease: Lease,
    status: LeaseStatus,
    now: float,
    *,
    note: str | None = None,
    good_until: int | None = None,
    by: str | None = None,
    origin: Mapping[str, str] | None = None,
) -> Entry:
    """Return the entry of a lease with which nothing is left to do."""
    return entry(
        Kind.LEASE_SETTLED,
        now,
        **_of(lease),
        status=status.value,
        note=note,
        good_until=good_until,
        by=by,
        **(origin or {}),
    )


def retried_entry(lease: Lease, by: str, now: float, origin: Mapping[str, str]) -> Entry:
    """Return the entry of an operator's order to try again."""
    return entry(Kind.LEASE_RETRIED, now, **_of(lease), by=by, **origin)


def confirmed_entry(by: str, reason: str, now: float, origin: Mapping[str, str]) -> Entry:
    """Return the entry of an operator's word that held leases may be revoked."""
    return entry(Kind.LEASES_CONFIRMED, now, by=by, reason=reason, **origin)


def prefix_entry(backend: str, prefix: str, by: str, reason: str, now: float, origin: Mapping[str, str]) -> Entry:
    """Return the entry of an operator's order to end everything below a path of a backend."""
    return entry(Kind.PREFIX_REVOKED, now, backend=backend, prefix=prefix, by=by, reason=reason, **origin)


def _of(lease: Lease) -> dict[str, Any]:
    return {
        "ref": lease.id,
        "agent": lease.agent,
        "issuer": lease.issuer,
        "role": lease.role,
        "task": lease.task,
        "secret": lease.secret,
        "backend": lease.backend,
        "tier": lease.tier,
        "token": lease.token,
    }
