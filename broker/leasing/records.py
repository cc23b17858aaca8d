"""What the ledger records of requests for leases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from broker.core.entry import Entry, Kind, entry
from broker.core.lease import Lease
from broker.core.lease_decision import Ground, LeaseGranted
from broker.leasing.wish import Case


def intended_entry(case: Case, ground: Ground, granted: LeaseGranted, lease: Lease, why: Mapping[str, str]) -> Entry:
    """Return the entry of an intent: who is about to get what, and why that is allowed."""
    return entry(
        Kind.LEASE_INTENDED,
        ground.now,
        ref=lease.id,
        **_about(case, ground),
        role=lease.role,
        task=lease.task,
        path=list(lease.path),
        backend=lease.backend,
        tier=lease.tier,
        epoch=lease.epoch,
        ttl=granted.ttl,
        ends_by=lease.ends_by,
        allowed_by=lease.allowed_by,
        **why,
    )


def refused_entry(case: Case, ground: Ground, refusal: str, code: str, reason: str) -> Entry:
    """Return the entry of a request that was refused."""
    about = _about(case, ground)
    return entry(
        Kind.LEASE_REFUSED,
        ground.now,
        ref=refusal,
        **about,
        role=ground.claims.role,
        task=ground.task.id,
        epoch=ground.rules.epoch,
        ttl=case.wish.ttl,
        encrypt_to=case.wish.ask(case.lease).key,
        code=code,
        reason=reason,
    )


def _about(case: Case, ground: Ground) -> dict[str, Any]:
    claims = ground.claims
    return {
        "agent": claims.client_id,
        "issuer": claims.issuer,
        "secret": case.wish.secret,
        "token": claims.jti,
        "on_behalf_of": claims.sub,
        "actors": list(claims.agents),
        "bound_key": claims.jkt,
        "policy": ground.policy.digest,
        **case.caller.members(),
    }
