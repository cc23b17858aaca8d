"""Leases: secrets from backends, each with an end, a way to end it, and an honest word about how that went (law 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from broker.core.claims import AccessClaims
from broker.core.rules import Rule, RuleIndex
from broker.core.secret import Secret
from broker.core.selector import Fact


class LeaseStatus(StrEnum):
    """What has become of a lease.

    ``opening``: the intent is durable, the backend may have been asked. ``live``: the secret was handed out.
    ``retrying``: it is to be revoked, and the backend has not confirmed that yet. ``stuck``: that was given up, and an
    operator must act. ``revoked``: the backend said that the secret is good for nothing any more. ``expires_only``: the
    lease has ended, but the backend cannot revoke, and the secret is good until it expires there. ``failed``: the
    backend never made a secret. ``abandoned``: an operator gave it up.
    """

    OPENING = "opening"
    LIVE = "live"
    RETRYING = "retrying"
    STUCK = "stuck"
    REVOKED = "revoked"
    EXPIRES_ONLY = "expires_only"
    FAILED = "failed"
    ABANDONED = "abandoned"


ENDING: Final = frozenset({LeaseStatus.RETRYING, LeaseStatus.STUCK})
"""The states of a lease that should be dead, and that the backend has not confirmed to be."""

EXPIRED: Final = "expired"
RETURNED: Final = "returned"
REVOKED: Final = "revoked"
UNSEALED: Final = "unsealed"
"""Why a lease ended: its time was over, its agent gave it back, a rule covers it, its secret was never handed out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A lease as it was taken; nothing here ever changes. Times are Unix seconds.

    ``agent`` holds it, ``role`` is what allowed it (by the line ``allowed_by``), ``on_behalf_of`` whose work it is.
    ``task`` with its ancestors ``path`` is the task that it belongs to. ``facts`` are what selectors match, those of
    the token that it was taken with included: by them it dies with that token. ``epoch`` is the epoch of the intent.
    ``ends_by`` is when it must have ended, however often it is renewed.
    """

    id: str
    secret: str
    backend: str
    tier: str
    agent: str
    issuer: str
    role: str
    on_behalf_of: str
    task: str
    facts: frozenset[Fact]
    epoch: int
    taken_at: float
    ends_by: int
    allowed_by: str
    token: str
    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseState:
    """A lease and what has become of it. Times are Unix seconds.

    ``handle`` is what the backend needs to renew and to revoke it; it holds no secret. ``expires_at`` is when the
    lease ends if it is not renewed; None while it is being taken. ``good_until`` is when the secret ends if nobody ends
    it before (None: it does not, or that is not known). ``because`` says why the lease ended, with the number of the
    rule if one ended it. ``held`` keeps it from being revoked until an operator confirms.
    ``note`` is the backend's word about the end, such as ``rotation requested``.
    """

    lease: Lease
    status: LeaseStatus
    handle: Mapping[str, str]
    expires_at: int | None = None
    good_until: int | None = None
    revocable: bool = True
    renewable: bool = False
    fingerprint: str | None = None
    because: str | None = None
    rule: int | None = None
    attempts: int = 0
    next_attempt_at: float | None = None
    last_error: str | None = None
    ended_at: float | None = None
    settled_at: float | None = None
    note: str | None = None
    held: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseOrder:
    """What a backend is asked for: the secret as the policy describes it, for whom, and for how long at most.

    ``settings`` are the secret's members in the policy. ``ttl`` is in seconds; ``ends_by`` (Unix seconds) is when the
    secret must be good for nothing any more, renewed or not; ``task_ends`` when the task is over at the latest.
    """

    lease: str
    secret: str
    settings: Mapping[str, object]
    ttl: int
    ends_by: int
    agent: str
    role: str
    task: str
    task_ends: int
    on_behalf_of: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A secret that a backend made or gave. ``data`` is a JSON object (UTF-8).

    ``handle`` replaces the one of the order. ``lease_seconds`` is how long the secret is good from now on; None if it
    does not end by itself. ``revocable`` says whether the backend can end it before.
    """

    data: Secret = field(repr=False)
    handle: Mapping[str, str]
    lease_seconds: int | None
    renewable: bool
    revocable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A backend's word about a revocation: the secret is dead (``revoked``), or is good until ``expires_at``.

    ``expires_at`` (Unix seconds) is None if nobody knows; ``note`` says what else was done, in words for an operator.
    """

    revoked: bool
    expires_at: int | None = None
    note: str | None = None


def lease_facts(lease: str, secret: str, backend: str, tier: str, claims: AccessClaims, kid: str) -> frozenset[Fact]:
    """Return the facts of a lease: its own, and those of the token that it was taken with.

    What only the token is for (its scopes and its audience, the broker's own API) says nothing about the lease. The
    token's tier stays beside that of the secret.
    """
    own = {("lease", lease), ("secret", secret), ("backend", backend), ("tier", tier)}
    return frozenset(own | {fact for fact in claims.facts(kid) if fact[0] not in {"scope", "audience"}})


def killer_of(state: LeaseState, rules: RuleIndex) -> Rule | None:
    """Return a rule that kills a lease, or None if it lives. One that a rule has ended is ended by later rules only."""
    return rules.killer(state.lease.facts, max(state.lease.epoch, state.rule or 0))
