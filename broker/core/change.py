"""``Change``: the one door for writes (law 7). A change is a ledger entry, guards that must hold, and writes.

All three are plain values. The ledger runs them in one transaction: if every guard holds, the writes and the entry are
applied together; if one fails, nothing of the change is applied and the failed guard is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from broker.core.entry import Entry
from broker.core.rules import Block, Rule

# --- guards ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EpochIs:
    """The current epoch is exactly ``epoch`` (law 2). Fails as ``EpochMoved``."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Unused:
    """``key`` was never used before, and is used up by this change (single use).

    ``key`` is a SHA-256 digest. ``expires_at`` (Unix seconds) says when the record may be forgotten, because what it
    guards is refused as expired from then on. ``what`` is ``"assertion"`` or ``"proof"``; it picks the reason code.
    """

    key: bytes
    expires_at: int
    what: str


@dataclass(frozen=True, slots=True)
class RateWithin:
    """No more than ``limit`` changes with this ``key`` commit in any 60 seconds, this one included; it is counted.

    ``at`` is Unix seconds. The count is kept in sub-windows of :data:`RATE_STEP` seconds, and a sub-window counts until
    all of it is older than a minute: the limit is never exceeded, and capacity is back after at most 60 + RATE_STEP s.
    """

    key: str
    limit: int
    at: float


@dataclass(frozen=True, slots=True)
class AgentAbsent:
    """No agent of this name is registered."""

    name: str


@dataclass(frozen=True, slots=True)
class EnrollmentOpen:
    """The enrolment code with this digest exists, is for ``name``, has not expired at ``now``; it is used up."""

    code_digest: bytes
    name: str
    now: float


@dataclass(frozen=True, slots=True)
class BlockInForce:
    """The block exists and has not been lifted."""

    block_id: str


@dataclass(frozen=True, slots=True)
class IdempotencyFresh:
    """No change was committed under this idempotency key yet; it is recorded with the request's fingerprint.

    ``key`` is scoped to the caller by whoever builds it. ``ref`` is what a repeated request is answered from. The
    record is forgotten at ``expires_at`` (Unix seconds).
    """

    key: str
    fingerprint: str
    ref: str
    expires_at: int


Guard = EpochIs | Unused | RateWithin | AgentAbsent | EnrollmentOpen | BlockInForce | IdempotencyFresh

RATE_STEP = 10
"""Seconds per sub-window of a rate guard."""

# --- writes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AddRule:
    """Add a rule; its number must be the current epoch + 1, which becomes the epoch. Fails as ``EpochMoved``.

    A rule whose id was committed before is refused (``GuardFailed`` with ``CONFLICT``): no rule is written twice.

    The ledger sets ``ends_at``: when the longest-lived token committed so far that the rule could hit has expired, plus
    a margin for skew. A rule that names a token ends with that token; for others it is the longest-lived of all.
    """

    rule: Rule


@dataclass(frozen=True, slots=True)
class AddBlock:
    """Add a block."""

    block: Block


@dataclass(frozen=True, slots=True)
class LiftBlock:
    """End a block at ``at`` (Unix seconds)."""

    block_id: str
    at: float


@dataclass(frozen=True, slots=True)
class RegisteredAgent:
    """An agent that authenticates with its own key. ``jwk`` is the public key (RFC 7517), ``key`` its thumbprint."""

    name: str
    jwk: Mapping[str, Any]
    key: str
    created_at: float
    created_by: str


@dataclass(frozen=True, slots=True)
class PutAgent:
    """Register an agent, or replace its key."""

    agent: RegisteredAgent


@dataclass(frozen=True, slots=True)
class RemoveAgent:
    """Forget a registered agent: it can authenticate no more, and no enrolment code for its name is good any more."""

    name: str


@dataclass(frozen=True, slots=True)
class AddEnrollment:
    """Add a one-time enrolment code, by digest (SHA-256), for the agent ``name``; it ends at ``expires_at``."""

    code_digest: bytes
    name: str
    created_by: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key of the broker's own ring as it is stored: the private part only sealed (encrypted).

    ``kid`` is the RFC 7638 thumbprint; ``use`` is ``"token"`` or ``"checkpoint"``; times are Unix seconds. A key is
    published from ``created_at``, signs from ``active_at`` until a younger one of its ``alg`` does, and is published
    until ``retires_at``. ``revoked`` keys are published no more.
    """

    kid: str
    use: str
    alg: str
    public_jwk: Mapping[str, Any]
    sealed: bytes
    created_at: float
    active_at: float
    retires_at: float | None = None
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class PutKey:
    """Add a key of the broker's ring, or replace its row (same ``kid``)."""

    key: StoredKey


Write = AddRule | AddBlock | LiftBlock | PutAgent | RemoveAgent | AddEnrollment | PutKey


@dataclass(frozen=True, slots=True)
class Change:
    """One atomic change of state with the entry that records it."""

    entry: Entry
    guards: tuple[Guard, ...] = ()
    writes: tuple[Write, ...] = ()
    urgent: bool = False
    """Urgent changes (revocations) go before all others that wait for the next transaction."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The change is durable: ``seq`` is its place in the ledger (from 0), ``epoch`` the epoch after it."""

    seq: int
    epoch: int
