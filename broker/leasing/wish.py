"""What an agent asks of the secrets of others: parsed, and put together with what it is judged by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from broker.core.change import Guard, IdempotencyFresh
from broker.core.claims import AccessClaims
from broker.core.errors import BrokerError, Code, Malformed
from broker.core.identity import is_name
from broker.core.jwk import thumbprint
from broker.core.lease import LeaseState
from broker.core.lease_decision import Ground, LeaseAsk
from broker.core.policy.compile_tiers import LONGEST_TTL
from broker.core.revoking import IDEMPOTENCY_SECONDS, check_text
from broker.core.secret import Secret
from broker.core.task import parse_task_id
from broker.ports import Admitted, Caller


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseWish:
    """What an agent asks for. ``ttl`` is in seconds; ``encrypt_to`` is a public JWK that the secret is encrypted to.

    ``auth_req_id`` goes on with a request that people were asked about; ``break_glass`` says why it cannot wait.
    """

    secret: str
    idempotency_key: str
    task: str | None = None
    ttl: int | None = None
    encrypt_to: Mapping[str, Any] | None = None
    auth_req_id: str | None = None
    break_glass: str | None = None

    def check(self) -> None:
        """Raise ``Malformed`` if it cannot be meant."""
        if not is_name(self.secret):
            raise Malformed("secret: a secret is named with lower-case letters, digits and . _ - (at most 128)")
        if self.task is not None:
            parse_task_id(self.task)
        if self.ttl is not None and not 0 < self.ttl <= LONGEST_TTL:
            raise Malformed(f"ttl: must be 1 to {LONGEST_TTL} seconds")
        if self.break_glass is not None:
            if self.auth_req_id is not None:
                raise Malformed("break_glass, auth_req_id: either go ahead, or go on with a request")
            check_text("break_glass", self.break_glass)

    def ask(self, lease: str) -> LeaseAsk:
        """Return what the policy is asked."""
        key = None if self.encrypt_to is None else thumbprint(self.encrypt_to)
        return LeaseAsk(lease=lease, secret=self.secret, ttl=self.ttl, key=key)

    def scoped_key(self, claims: AccessClaims) -> str:
        """Return the idempotency key under which this is recorded: those of different agents never meet."""
        named = f"leases\n{claims.client_id}\n{claims.sub}\n{self.idempotency_key}"
        return hashlib.sha256(named.encode("utf-8", "surrogatepass")).hexdigest()

    def fingerprint(self) -> str:
        """Return a digest of what is asked; how an approval goes on with it makes no difference."""
        asked = [self.secret, self.task, self.ttl, self.encrypt_to and thumbprint(self.encrypt_to)]
        return hashlib.sha256(msgspec.json.encode(asked)).hexdigest()

    def fresh(self, claims: AccessClaims, lease: str, now: float) -> Guard:
        """Return the guard that makes the request count once."""
        return IdempotencyFresh(self.scoped_key(claims), self.fingerprint(), lease, int(now) + IDEMPOTENCY_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request for a lease, with everything that is the same in each attempt to decide it."""

    lease: str
    wish: LeaseWish
    by: Admitted
    caller: Caller

    @property
    def claims(self) -> AccessClaims:
        """What the token says that the request came with."""
        return claims_of(self.by)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leased:
    """A lease as its agent is told of it. ``data`` (a JSON object) is only there when the secret is handed out."""

    state: LeaseState
    data: Secret | None = field(default=None, repr=False)


def claims_of(by: Admitted) -> AccessClaims:
    """Return what the caller's token says. Raises ``BrokerError`` (``TOKEN_MISSING``) if there is none."""
    if by.claims is None:
        raise BrokerError(Code.TOKEN_MISSING, "leases need an access token")
    return by.claims


def chain_of(ground: Ground) -> tuple[str, ...]:
    """Return the agents that a request was handed through, the one who started it first; nobody for a direct one."""
    claims = ground.claims
    return (claims.sub, *reversed(claims.agents)) if claims.agents else ()
