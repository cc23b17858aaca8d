"""Compiling roles: members, what they may ask for, their limits, and whom they may delegate to."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from broker.core.issuer import TrustedIssuer
from broker.core.policy.compile_members import compile_members
from broker.core.policy.compile_tiers import LONGEST_TTL
from broker.core.policy.document import Node, path_of
from broker.core.policy.model import (
    Audience,
    AudienceAllow,
    Limits,
    Role,
    ScopeAllow,
    SecretAllow,
    SecretRef,
)
from broker.core.policy.operator_scopes import BROKER

DEFAULT_TOKENS_PER_MINUTE: Final = 60
"""Tokens per agent and minute in a role that states no limit."""

_MOST: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Defined:
    """What roles may refer to. ``audiences`` are keyed by URI; ``broker_audience`` is the URI of ``broker``."""

    issuers: Mapping[str, TrustedIssuer]
    audiences: Mapping[str, Audience]
    secrets: Mapping[str, SecretRef]
    roles: Collection[str]
    broker_audience: str


def compile_roles(node: Node, defined: Defined) -> dict[str, Role]:
    """Compile ``roles``; what is wrong is reported on the node."""
    return {name: _role(name, entry, defined) for name, entry in node.names("a role")}


def _role(name: str, node: Node, defined: Defined) -> Role:
    found = node.members("limits", "may_delegate_to", required=("members", "allow"))
    audiences, secrets = _allows(found["allow"], defined) if "allow" in found else ({}, {})
    return Role(
        name=name,
        members=compile_members(found["members"], defined.issuers) if "members" in found else (),
        audiences=audiences,
        secrets=secrets,
        limits=_limits(found.get("limits")),
        may_delegate_to=_references(found["may_delegate_to"], defined.roles) if "may_delegate_to" in found else (),
    )


def _references(node: Node, roles: Collection[str]) -> tuple[str, ...]:
    return tuple(name for item in node.items() if (name := item.reference(roles, "a role")) is not None)


def _limits(node: Node | None) -> Limits:
    names = ("tokens_per_minute", "role_tokens_per_minute", "live_leases", "tokens_per_task")
    found = {} if node is None else node.members(*names, "task_ttl")
    counts = {name: found[name].number(1, _MOST) for name in names if name in found}
    per_minute = counts.pop("tokens_per_minute", None) or DEFAULT_TOKENS_PER_MINUTE
    task_ttl = found["task_ttl"].duration() if "task_ttl" in found else None
    return Limits(tokens_per_minute=per_minute, task_ttl=task_ttl, **counts)


def _allows(node: Node, defined: Defined) -> tuple[dict[str, AudienceAllow], dict[str, SecretAllow]]:
    audiences: dict[str, AudienceAllow] = {}
    secrets: dict[str, SecretAllow] = {}
    for item in node.items():
        found = item.members("audience", "scopes", "default_scopes", "secret", "max_ttl")
        ttl = (found["max_ttl"].duration(LONGEST_TTL) if "max_ttl" in found else None) or LONGEST_TTL
        if ("audience" in found) == ("secret" in found):
            if found:
                item.fail("name either an audience with scopes, or a secret")
        elif "secret" in found:
            _allow_secret(item, found, ttl, defined, secrets)
        else:
            _allow_audience(item, found, ttl, defined, audiences)
    return audiences, secrets


def _allow_secret(
    item: Node, found: Mapping[str, Node], ttl: int, defined: Defined, secrets: dict[str, SecretAllow]
) -> None:
    for extra in found.keys() & {"scopes", "default_scopes"}:
        found[extra].fail("a secret has no scopes: leave this out")
    name = found["secret"].reference(defined.secrets, "a secret")
    if name is None:
        return
    if name in secrets:
        found["secret"].fail(f"is allowed by {secrets[name].path} already")
    secret = defined.secrets[name]
    secrets[name] = SecretAllow(secret=secret, ttl=min(ttl, secret.tier.max_ttl), path=path_of(item.keys))


def _allow_audience(
    item: Node, found: Mapping[str, Node], ttl: int, defined: Defined, audiences: dict[str, AudienceAllow]
) -> None:
    if "scopes" not in found:
        item.fail("scopes is missing")
    uri = _uri(found["audience"], defined)
    if uri is None or "scopes" not in found:
        return
    known = defined.audiences[uri].scopes
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
        lines[scope] = ScopeAllow(tier=tier, ttl=min(ttl, tier.max_ttl), path=path_of(item.keys))
        here.append(scope)
    defaults = before.default_scopes
    if "default_scopes" in found:
        defaults = _defaults(found["default_scopes"], here, before)
    audiences[uri] = AudienceAllow(scopes=lines, default_scopes=defaults)


def _defaults(node: Node, here: Collection[str], before: AudienceAllow) -> tuple[str, ...]:
    if before.default_scopes:
        node.fail("another line of this role has default scopes for this audience already")
    scopes = [item.reference(here, "among the scopes of this line") for item in node.items()]
    return tuple(sorted({scope for scope in scopes if scope is not None}))


def _uri(node: Node, defined: Defined) -> str | None:
    if node.value in (BROKER, defined.broker_audience):
        return defined.broker_audience
    return node.reference(defined.audiences, "an audience")
