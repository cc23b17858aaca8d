"""What a policy says once it is compiled: frozen values that every decision reads.

They are made by :func:`broker.core.policy.compile_policy` only, which checks that every name resolves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

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
class BudgetApproval:
    """Who may lift a budget that is used up (see :class:`Approval`), and by how many (``adds``) each time."""

    approval: Approval
    adds: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegate:
    """A role that another role may delegate to.

    With ``own_grants`` a delegate's token has what the delegate's own role allows, within the task, instead of a part
    of what the delegating token has. With ``impersonation`` the token names no actors (no ``act``).
    """

    role: str
    own_grants: bool = False
    impersonation: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DetailType:
    """A type of ``authorization_details`` (RFC 9396) that an audience understands, and the check of its elements.

    ``mismatch`` returns what is wrong with an element in words that are safe to show, or None. ``ceilings`` are the
    members (as paths) whose numbers are upper bounds: a token that comes of another may have lower ones there.
    """

    name: str
    ceilings: frozenset[tuple[str, ...]] = frozenset()
    mismatch: Callable[[Mapping[str, Any]], str | None] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """How sensitive something is. A higher ``rank`` is more sensitive; ``max_ttl`` is in seconds.

    With ``encrypted`` a leased secret is handed out only encrypted to a key of the agent's own.
    """

    name: str
    rank: int
    max_ttl: int
    proof_required: bool = False
    approval: Approval | None = None
    encrypted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """A resource server: its URI, the tier of each scope, and the agents that serve it.

    Those may introspect its tokens and reserve actions with them. ``details`` are the types of authorization details
    that it understands, by name. With ``status_list`` its tokens have a place in a Token Status List.
    """

    uri: str
    scopes: Mapping[str, Tier]
    served_by: tuple[Member, ...] = ()
    details: Mapping[str, DetailType] = field(default_factory=dict)
    status_list: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRef:
    """A secret that can be leased from a backend. ``settings`` are the backend's own members, as written.

    ``backend`` is the kind of backend, or the kind, a slash and the name of one of several: ``vault``, ``vault/eu``.
    """

    name: str
    backend: str
    tier: Tier
    settings: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeAllow:
    """One scope that a role allows at one audience, for ``ttl`` seconds at most, by the line ``path`` of the policy.

    ``approval`` is what this line demands; if it demands nothing, the tier's counts.
    """

    tier: Tier
    ttl: int
    path: str
    approval: Approval | None = None

    @property
    def asks(self) -> Approval | None:
        """Return whose approval this scope needs by this line or by its tier."""
        return self.approval or self.tier.approval


@dataclass(frozen=True, slots=True, kw_only=True)
class AudienceAllow:
    """Everything a role allows at one audience.

    ``default_scopes`` (sorted) are for requests that name no scope; ``details`` are the types of authorization details
    that a request may hold.
    """

    scopes: Mapping[str, ScopeAllow]
    default_scopes: tuple[str, ...] = ()
    details: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretAllow:
    """One secret that a role may lease, for ``ttl`` seconds at most, by the line ``path`` of the policy.

    ``approval`` is what this line demands; if it demands nothing, the tier's counts.
    """

    secret: SecretRef
    ttl: int
    path: str
    approval: Approval | None = None

    @property
    def asks(self) -> Approval | None:
        """Return whose approval this secret needs by this line or by its tier."""
        return self.approval or self.secret.tier.approval


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityAllow:
    """One audience that a role's agents may prove to who they are, by the line ``path`` of the policy.

    An identity token for it lives ``ttl`` seconds at most and says ``claims`` and ``groups`` of the agent besides.
    """

    audience: str
    ttl: int
    path: str
    claims: Mapping[str, str] = field(default_factory=dict)
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one role may use. Lifetimes are in seconds; None is no limit of that kind.

    ``actions`` are how often each action may be done in one task: a task of this role cannot ask for more, and one
    that asks for nothing has these. ``idle_timeout`` likewise. ``delegation_depth`` is how many agents may act one
    after the other in a line of tokens that one of this role is part of.
    """

    tokens_per_minute: int
    role_tokens_per_minute: int | None = None
    live_leases: int | None = None
    task_ttl: int | None = None
    tokens_per_task: int | None = None
    tasks_per_minute: int = 600
    actions: Mapping[str, int] | None = None
    idle_timeout: int | None = None
    delegation_depth: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What a set of agents may ask for.

    ``identities`` are keyed by audience, ``may_delegate_to`` by role. ``explicit_tasks`` demands that every request
    names a task that was opened. With ``break_glass`` a request that gives a reason goes ahead without the approval it
    would need. With ``budget_approval`` people can lift the budget of a task that has used it up. ``digest`` tells
    whether the document says something else of this role than another one does.
    """

    name: str
    members: tuple[Member, ...]
    audiences: Mapping[str, AudienceAllow]
    secrets: Mapping[str, SecretAllow]
    limits: Limits
    identities: Mapping[str, IdentityAllow] = field(default_factory=dict)
    may_delegate_to: Mapping[str, Delegate] = field(default_factory=dict)
    explicit_tasks: bool = False
    break_glass: bool = False
    budget_approval: BudgetApproval | None = None
    digest: str = ""


REVOKE: Final = "revoke"
KEEP: Final = "keep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A policy as a whole. ``digest`` is ``sha256:`` and the hex digest of the document; tiers are in rising order.

    ``audiences`` and the audiences in roles are keyed by URI; the broker's own API is among them as
    ``broker_audience``. Roles are in the order of the file. ``on_narrowing`` says what becomes of live grants that this
    policy, when it replaces another, no longer allows: :data:`REVOKE` or :data:`KEEP`.
    """

    digest: str
    broker_audience: str
    issuers: Mapping[str, TrustedIssuer]
    tiers: tuple[Tier, ...]
    audiences: Mapping[str, Audience]
    secrets: Mapping[str, SecretRef]
    roles: Mapping[str, Role]
    membership: Membership = field(repr=False, compare=False)
    on_narrowing: str = KEEP

    def roles_of(self, agent: Agent) -> tuple[Role, ...]:
        """Return the roles that ``agent`` is a member of, in the order of the file."""
        return tuple([self.roles[name] for name in self.membership.of(agent)])

    def serves(self, agent: Agent, *, audience: str) -> bool:
        """Whether ``agent`` is a resource server for ``audience`` (the policy's ``served_by``)."""
        found = self.audiences.get(audience)
        return found is not None and any(member.mismatch(agent) is None for member in found.served_by)
