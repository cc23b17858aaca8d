"""What a policy says once it is compiled: frozen values that every decision reads.

They are made by :func:`broker.core.policy.compile_policy` only, which checks that every name resolves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.core.identity import Agent
from broker.core.issuer import TrustedIssuer
from broker.core.policy.matching import Member
from broker.core.policy.membership import Membership


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A person must agree: ``quorum`` members of the role ``approvers``, within ``expires`` seconds of the request."""

    approvers: str
    quorum: int
    expires: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """How sensitive something is. A higher ``rank`` is more sensitive; ``max_ttl`` is in seconds."""

    name: str
    rank: int
    max_ttl: int
    proof_required: bool = False
    approval: Approval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """A resource server: its URI, the tier of each scope, and the agents that serve it (who may introspect)."""

    uri: str
    scopes: Mapping[str, Tier]
    served_by: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRef:
    """A secret that can be leased from a backend. ``settings`` are the backend's own members, as written."""

    name: str
    backend: str
    tier: Tier
    settings: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeAllow:
    """One scope that a role allows at one audience, for ``ttl`` seconds at most, by the line ``path`` of the policy."""

    tier: Tier
    ttl: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AudienceAllow:
    """Everything a role allows at one audience. ``default_scopes`` (sorted) are for requests that name no scope."""

    scopes: Mapping[str, ScopeAllow]
    default_scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretAllow:
    """One secret that a role may lease, for ``ttl`` seconds at most, by the line ``path`` of the policy."""

    secret: SecretRef
    ttl: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one role may use. Lifetimes are in seconds; None is no limit of that kind."""

    tokens_per_minute: int
    role_tokens_per_minute: int | None = None
    live_leases: int | None = None
    task_ttl: int | None = None
    tokens_per_task: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What a set of agents may ask for."""

    name: str
    members: tuple[Member, ...]
    audiences: Mapping[str, AudienceAllow]
    secrets: Mapping[str, SecretAllow]
    limits: Limits
    may_delegate_to: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A policy as a whole. ``digest`` is ``sha256:`` and the hex digest of the document; tiers are in rising order.

    ``audiences`` and the audiences in roles are keyed by URI; the broker's own API is among them as
    ``broker_audience``. Roles are in the order of the file.
    """

    digest: str
    broker_audience: str
    issuers: Mapping[str, TrustedIssuer]
    tiers: tuple[Tier, ...]
    audiences: Mapping[str, Audience]
    secrets: Mapping[str, SecretRef]
    roles: Mapping[str, Role]
    membership: Membership = field(repr=False, compare=False)

    def roles_of(self, agent: Agent) -> tuple[Role, ...]:
        """Return the roles that ``agent`` is a member of, in the order of the file."""
        return tuple([self.roles[name] for name in self.membership.of(agent)])

    def serves(self, agent: Agent, *, audience: str) -> bool:
        """Whether ``agent`` is a resource server for ``audience`` (the policy's ``served_by``)."""
        found = self.audiences.get(audience)
        return found is not None and any(member.mismatch(agent) is None for member in found.served_by)
