"""Compiling a policy: the document is checked as a whole, every name is resolved, and every problem is told."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from broker.core.audience import canonical_audience
from broker.core.errors import Malformed
from broker.core.issuer import TrustedIssuer
from broker.core.policy.compile_details import compile_details
from broker.core.policy.compile_issuers import compile_issuers
from broker.core.policy.compile_members import compile_members
from broker.core.policy.compile_roles import Defined, compile_roles
from broker.core.policy.compile_secrets import compile_secrets
from broker.core.policy.compile_tiers import compile_tiers
from broker.core.policy.document import Node, PolicyError, Problem, plain_problems, shown
from broker.core.policy.membership import Membership
from broker.core.policy.model import KEEP, REVOKE, Audience, Policy, Tier
from broker.core.policy.operator_scopes import BROKER, OPERATOR_SCOPES, OPERATOR_TIER
from broker.core.scope import MAX_SCOPE, is_scope

VERSION: Final = 1
"""The version of the format that ``version`` must name."""

_encoder: Final = msgspec.json.Encoder(order="sorted")


def compile_policy(document: Mapping[str, object], *, broker_audience: str, broker_issuer: str) -> Policy:
    """Compile a decoded policy document.

    ``broker_audience`` is the URI that ``broker`` stands for, ``broker_issuer`` the audience that platform tokens must
    be meant for unless an issuer says otherwise. Raises :class:`PolicyError` with every problem found.
    """
    problems = plain_problems(document)
    if problems:
        raise PolicyError(tuple(problems))
    policy = _compile(Node(document, (), problems), broker_audience, broker_issuer)
    if problems:
        raise PolicyError(tuple(_in_order(document, problems)))
    return policy


def _compile(root: Node, broker_audience: str, broker_issuer: str) -> Policy:
    top = root.members("issuers", "audiences", "secrets", "tiers", "on_narrowing", required=("version", "roles"))
    if "version" in top and (top["version"].value != VERSION or isinstance(top["version"].value, bool)):
        top["version"].fail(f"must be {VERSION}")
    roles_value = top["roles"].value if "roles" in top else None
    members = {name: _members(role) for name, role in roles_value.items()} if isinstance(roles_value, Mapping) else {}
    tiers = compile_tiers(top.get("tiers"), members)
    issuers = compile_issuers(top["issuers"], broker_issuer) if "issuers" in top else {}
    audiences = _audiences(top.get("audiences"), tiers, issuers, broker_audience)
    secrets = compile_secrets(top["secrets"], tiers) if "secrets" in top else {}
    defined = Defined(
        issuers=issuers,
        audiences=audiences,
        secrets=secrets,
        roles=members,
        broker_audience=broker_audience,
        broker_issuer=broker_issuer,
    )
    roles = compile_roles(top["roles"], defined) if "roles" in top else {}
    narrowing = top["on_narrowing"].choice((KEEP, REVOKE)) if "on_narrowing" in top else None
    return Policy(
        digest=_digest(root.value),
        broker_audience=broker_audience,
        issuers=MappingProxyType(issuers),
        tiers=tuple(tiers.values()),
        audiences=MappingProxyType(audiences),
        secrets=MappingProxyType(secrets),
        roles=MappingProxyType(roles),
        membership=Membership((role.name, member) for role in roles.values() for member in role.members),
        on_narrowing=narrowing or KEEP,
    )


def _members(role: object) -> int | None:
    """Return how many members a role has, if each of its lines names one agent; what is wrong is told elsewhere."""
    lines = role.get("members") if isinstance(role, Mapping) else None
    if not isinstance(lines, list | tuple) or not all(isinstance(line, Mapping) and "agent" in line for line in lines):
        return None
    return len({str(line["agent"]) for line in lines})


def _audiences(
    node: Node | None, tiers: Mapping[str, Tier], issuers: Mapping[str, TrustedIssuer], broker_audience: str
) -> dict[str, Audience]:
    own: dict[str, Tier] = dict.fromkeys(OPERATOR_SCOPES, tiers[OPERATOR_TIER])
    audiences: dict[str, Audience] = {}
    for uri, entry in () if node is None else node.table():
        if uri == BROKER:
            own |= _broker_scopes(entry, tiers)
            continue
        _check_uri(uri, entry, broker_audience)
        found = entry.members("served_by", "details", "status_list", required=("scopes",))
        audiences[uri] = Audience(
            uri=uri,
            scopes=_scopes(found["scopes"], tiers) if "scopes" in found else {},
            served_by=compile_members(found["served_by"], issuers) if "served_by" in found else (),
            details=compile_details(found["details"]) if "details" in found else {},
            status_list="status_list" in found and found["status_list"].flag() is True,
        )
    audiences[broker_audience] = Audience(uri=broker_audience, scopes=own)
    return audiences


def _check_uri(uri: str, node: Node, broker_audience: str) -> None:
    try:
        canonical = canonical_audience(uri)
    except Malformed as error:
        node.fail(error.public.removeprefix("audience: "))
        return
    if canonical == broker_audience:
        node.fail(f"is the broker's own API: write {BROKER}")
    elif canonical != uri:
        node.fail(f"write it as {shown(canonical)}: audiences are compared character by character")


def _broker_scopes(node: Node, tiers: Mapping[str, Tier]) -> dict[str, Tier]:
    found = node.members(required=("scopes",))
    if "scopes" not in found:
        return {}
    for name, entry in found["scopes"].table():
        if name not in OPERATOR_SCOPES:
            entry.fail(f"is not a scope of the broker's own API; they are: {', '.join(OPERATOR_SCOPES)}")
    return {name: tier for name, tier in _scopes(found["scopes"], tiers).items() if name in OPERATOR_SCOPES}


def _scopes(node: Node, tiers: Mapping[str, Tier]) -> dict[str, Tier]:
    scopes: dict[str, Tier] = {}
    for name, entry in node.table():
        if not is_scope(name):
            entry.fail(f'a scope is 1 to {MAX_SCOPE} printable ASCII characters other than space, " and \\')
        found = entry.members(required=("tier",))
        tier = found["tier"].reference(tiers, "a tier") if "tier" in found else None
        if tier is not None:
            scopes[name] = tiers[tier]
    return scopes


def _digest(document: object) -> str:
    """Return the digest of the document: SHA-256 of its JSON with sorted members.

    The order of tiers and roles has a meaning, so these two are written as lists of pairs.
    """
    ordered = dict(document) if isinstance(document, Mapping) else {}
    for key in ("tiers", "roles"):
        if isinstance(ordered.get(key), Mapping):
            ordered[key] = [[name, value] for name, value in ordered[key].items()]
    return "sha256:" + hashlib.sha256(_encoder.encode(ordered)).hexdigest()


def _in_order(document: object, problems: list[Problem]) -> list[Problem]:
    """Sort problems by where they stand in the document."""

    def place(problem: Problem) -> tuple[int, ...]:
        places: list[int] = []
        value = document
        for key in problem.keys:
            if isinstance(value, Mapping):
                places.append(list(value).index(key) if key in value else len(value))
                value = value.get(key)
            elif isinstance(value, list | tuple) and isinstance(key, int):
                places.append(key)
                value = value[key]
        return tuple(places)

    return sorted(problems, key=place)
