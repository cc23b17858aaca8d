"""Compiling roles: members, what they may ask for, their limits, and whom they may delegate to."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from broker.core.claims import MAX_ACT_DEPTH
from broker.core.issuer import TrustedIssuer
from broker.core.policy.compile_details import BUILT_IN
from broker.core.policy.compile_identities import compile_identity
from broker.core.policy.compile_members import compile_members
from broker.core.policy.compile_tiers import LONGEST_TTL, compile_approval
from broker.core.policy.document import Node, path_of
from broker.core.policy.model import (
    Audience,
    AudienceAllow,
    BudgetApproval,
    Delegate,
    IdentityAllow,
    Limits,
    Role,
    ScopeAllow,
    SecretAllow,
    SecretRef,
)
from broker.core.policy.operator_scopes import BROKER
from broker.core.task import is_action_name

DEFAULT_TOKENS_PER_MINUTE: Final = 60
"""Tokens per agent and minute in a role that states no limit."""

DEFAULT_TASKS_PER_MINUTE: Final = 600
"""Tasks that an agent may open in a minute in a role that states no limit."""

DEFAULT_DELEGATION_DEPTH: Final = 4
"""How many agents a token may be handed on through, in a role that states no limit."""

SHORTEST_IDLE: Final = 10
"""Seconds: no task that must be heard of more often than that could be kept open reliably."""

_MOST: Final = 1_000_000
_DIGITS: Final = 16
_encoder: Final = msgspec.json.Encoder(order="sorted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Defined:
    """What roles may refer to. ``audiences`` are keyed by URI.

    ``roles`` says how many members each role has, if it names them all. ``broker_audience`` is the URI of ``broker``,
    ``broker_issuer`` the broker itself.
    """

    issuers: Mapping[str, TrustedIssuer]
    audiences: Mapping[str, Audience]
    secrets: Mapping[str, SecretRef]
    roles: Mapping[str, int | None]
    broker_audience: str
    broker_issuer: str


@dataclass(frozen=True, slots=True)
class _Allowed:
    """What the lines of ``allow`` come to: by audience, by secret, and by audience of identity tokens."""

    audiences: dict[str, AudienceAllow] = field(default_factory=dict)
    secrets: dict[str, SecretAllow] = field(default_factory=dict)
    identities: dict[str, IdentityAllow] = field(default_factory=dict)


def compile_roles(node: Node, defined: Defined) -> dict[str, Role]:
    """Compile ``roles``; what is wrong is reported on the node."""
    return {name: _role(name, entry, defined) for name, entry in node.names("a role")}


def _role(name: str, node: Node, defined: Defined) -> Role:
    optional = ("limits", "may_delegate_to", "tasks", "break_glass", "budget_approval")
    found = node.members(*optional, required=("members", "allow"))
    allowed = _allows(found["allow"], defined) if "allow" in found else _Allowed()
    return Role(
        name=name,
        members=compile_members(found["members"], defined.issuers) if "members" in found else (),
        audiences=allowed.audiences,
        secrets=allowed.secrets,
        identities=allowed.identities,
        limits=_limits(found.get("limits")),
        may_delegate_to=_delegates(found["may_delegate_to"], defined.roles) if "may_delegate_to" in found else {},
        explicit_tasks="tasks" in found and found["tasks"].choice(("implicit", "explicit")) == "explicit",
        break_glass="break_glass" in found and found["break_glass"].flag() is True,
        budget_approval=(
            _budget_approval(found["budget_approval"], defined.roles) if "budget_approval" in found else None
        ),
        digest=hashlib.sha256(_encoder.encode(node.value)).hexdigest()[:_DIGITS],
    )


def _delegates(node: Node, roles: Collection[str]) -> dict[str, Delegate]:
    """Compile whom a role may delegate to: names of roles, or mappings that say on which terms."""
    delegates: dict[str, Delegate] = {}
    for item in node.items():
        plain = isinstance(item.value, str)
        found = {"role": item} if plain else item.members("own_grants", "impersonation", required=("role",))
        name = found["role"].reference(roles, "a role") if "role" in found else None
        if name is None:
            continue
        if name in delegates:
            item.fail("this role is named twice")
        delegates[name] = Delegate(
            role=name,
            own_grants="own_grants" in found and found["own_grants"].flag() is True,
            impersonation="impersonation" in found and found["impersonation"].flag() is True,
        )
    return delegates


def _budget_approval(node: Node, roles: Mapping[str, int | None]) -> BudgetApproval | None:
    approval = compile_approval(node, roles, "adds")
    adds = node.members("adds", required=("approvers", "quorum", "expires")).get("adds") if approval else None
    count = 1 if adds is None else adds.number(1, _MOST)
    return None if approval is None or count is None else BudgetApproval(approval=approval, adds=count)


def _limits(node: Node | None) -> Limits:
    names = ("tokens_per_minute", "role_tokens_per_minute", "live_leases", "tokens_per_task", "tasks_per_minute")
    others = ("task_ttl", "idle_timeout", "delegation_depth", "actions")
    found = {} if node is None else node.members(*names, *others)
    counts = {name: found[name].number(1, _MOST) for name in names if name in found}
    depth = found["delegation_depth"].number(1, MAX_ACT_DEPTH) if "delegation_depth" in found else None
    return Limits(
        tokens_per_minute=counts.get("tokens_per_minute") or DEFAULT_TOKENS_PER_MINUTE,
        role_tokens_per_minute=counts.get("role_tokens_per_minute"),
        live_leases=counts.get("live_leases"),
        tokens_per_task=counts.get("tokens_per_task"),
        tasks_per_minute=counts.get("tasks_per_minute") or DEFAULT_TASKS_PER_MINUTE,
        task_ttl=found["task_ttl"].duration() if "task_ttl" in found else None,
        idle_timeout=_idle_timeout(found["idle_timeout"]) if "idle_timeout" in found else None,
        delegation_depth=depth or DEFAULT_DELEGATION_DEPTH,
        actions=_actions(found["actions"]) if "actions" in found else None,
    )


def _idle_timeout(node: Node) -> int | None:
    seconds = node.duration(LONGEST_TTL)
    if seconds is not None and seconds < SHORTEST_IDLE:
        node.fail(f"must be at least {SHORTEST_IDLE}s")
    return seconds


def _actions(node: Node) -> dict[str, int]:
    """Compile how often each action may be done in a task."""
    actions: dict[str, int] = {}
    for name, entry in node.table():
        if not is_action_name(name):
            entry.fail("an action is named with 1 to 128 ASCII letters, digits and . _ : / -")
        elif (most := entry.number(1, _MOST)) is not None:
            actions[name] = most
    return actions


def _allows(node: Node, defined: Defined) -> _Allowed:
    allowed = _Allowed()
    ours = {*defined.audiences, defined.broker_audience, defined.broker_issuer, BROKER}
    for item in node.items():
        found = item.members(
            *("audience", "scopes", "default_scopes", "details", "approval", "max_ttl"),
            *("secret", "identity_token", "claims", "groups"),
        )
        if len(found.keys() & {"audience", "secret", "identity_token"}) != 1:
            if found:
                item.fail("name either an audience with scopes, or a secret, or an identity_token")
            continue
        if "identity_token" in found:
            compile_identity(item, found, ours, allowed.identities)
            continue
        for extra in found.keys() & {"claims", "groups"}:
            found[extra].fail("is for identity tokens: leave this out")
        ttl = (found["max_ttl"].duration(LONGEST_TTL) if "max_ttl" in found else None) or LONGEST_TTL
        if "secret" in found:
            _allow_secret(item, found, ttl, defined, allowed.secrets)
        else:
            _allow_audience(item, found, ttl, defined, allowed.audiences)
    return allowed


def _allow_secret(
    item: Node, found: Mapping[str, Node], ttl: int, defined: Defined, secrets: dict[str, SecretAllow]
) -> None:
    for extra in found.keys() & {"scopes", "default_scopes", "details"}:
        found[extra].fail("a secret has no scopes and no details: leave this out")
    name = found["secret"].reference(defined.secrets, "a secret")
    if name is None:
        return
    if name in secrets:
        found["secret"].fail(f"is allowed by {secrets[name].path} already")
    secret = defined.secrets[name]
    approval = compile_approval(found["approval"], defined.roles) if "approval" in found else None
    secrets[name] = SecretAllow(
        secret=secret, ttl=min(ttl, secret.tier.max_ttl), path=path_of(item.keys), approval=approval
    )


def _allow_audience(
    item: Node, found: Mapping[str, Node], ttl: int, defined: Defined, audiences: dict[str, AudienceAllow]
) -> None:
    if "scopes" not in found:
        item.fail("scopes is missing")
    uri = _uri(found["audience"], defined)
    if uri is None or "scopes" not in found:
        return
    known = defined.audiences[uri].scopes
    approval = compile_approval(found["approval"], defined.roles) if "approval" in found else None
    before = audiences.get(uri, AudienceAllow(scopes={}))
    lines = dict(before.scopes)
    here: list[str] = []
    for scope_node in found["scopes"].items():
        scope = scope_node.reference(known, "a scope of this audience")
        if scope is None:
            continue
        if scope in lines:
            scope_node.fail(f"is allowed by {lines[scope].path} already")
        tier = known[scope]
        lines[scope] = ScopeAllow(tier=tier, ttl=min(ttl, tier.max_ttl), path=path_of(item.keys), approval=approval)
        here.append(scope)
    defaults = before.default_scopes
    if "default_scopes" in found:
        defaults = _defaults(found["default_scopes"], here, before)
    details = set(before.details)
    if "details" in found:
        types = (*defined.audiences[uri].details, BUILT_IN)
        named = [entry.reference(types, "a type of details of this audience") for entry in found["details"].items()]
        details |= {name for name in named if name is not None}
    audiences[uri] = AudienceAllow(scopes=lines, default_scopes=defaults, details=frozenset(details))


def _defaults(node: Node, here: Collection[str], before: AudienceAllow) -> tuple[str, ...]:
    if before.default_scopes:
        node.fail("another line of this role has default scopes for this audience already")
    scopes = [item.reference(here, "among the scopes of this line") for item in node.items()]
    return tuple(sorted({scope for scope in scopes if scope is not None}))


def _uri(node: Node, defined: Defined) -> str | None:
    if node.value in (BROKER, defined.broker_audience):
        return defined.broker_audience
    return node.reference(defined.audiences, "an audience")
