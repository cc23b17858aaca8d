"""Compiling the lines by which a role's agents may prove to others who they are: identity tokens and what they say."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

from broker.core.identity_token import RESERVED_CLAIMS
from broker.core.lifetime import format_duration
from broker.core.policy.compile_tiers import LONG_TTL
from broker.core.policy.document import Node, path_of
from broker.core.policy.model import IdentityAllow

DEFAULT_IDENTITY_TTL: Final = 5 * 60
"""Seconds that an identity token lives at most, by a line that does not say: nobody can revoke one."""

MAX_CLAIMS: Final = 16
"""The most claims, and the most groups, that one line may add."""

_MAX_VALUE: Final = 256
_CLAIM: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_NOT_HERE: Final = frozenset({"scopes", "default_scopes", "details", "approval"})


def compile_identity(
    item: Node, found: Mapping[str, Node], ours: Collection[str], identities: dict[str, IdentityAllow]
) -> None:
    """Compile one line of ``allow`` that names an ``identity_token``, and add it to those of its role.

    ``found`` are the members of the line, ``ours`` the audiences that an identity token must never be for: whoever
    takes access tokens of this broker, or is it.
    """
    for extra in found.keys() & _NOT_HERE:
        found[extra].fail("an identity token has no scopes and no details, and nobody is asked: leave this out")
    audience = found["identity_token"].text()
    if audience is None:
        return
    if audience in ours:
        found["identity_token"].fail("takes access tokens of this broker: an identity token is for others")
        return
    if audience in identities:
        found["identity_token"].fail(f"is allowed by {identities[audience].path} already")
        return
    identities[audience] = IdentityAllow(
        audience=audience,
        ttl=_ttl(found["max_ttl"]) if "max_ttl" in found else DEFAULT_IDENTITY_TTL,
        path=path_of(item.keys),
        claims=_claims(found["claims"]) if "claims" in found else {},
        groups=_groups(found["groups"]) if "groups" in found else (),
    )


def _ttl(node: Node) -> int:
    seconds = node.duration() or DEFAULT_IDENTITY_TTL
    if seconds > LONG_TTL:
        node.fail(f"must be at most {format_duration(LONG_TTL)}: nobody can revoke an identity token")
    return seconds


def _claims(node: Node) -> dict[str, str]:
    """Read claims of the operator's own: flat text, so that everybody can match it, under names that are free."""
    claims: dict[str, str] = {}
    for name, entry in node.table():
        if _CLAIM.fullmatch(name) is None:
            entry.fail("a claim is named with 1 to 64 ASCII letters, digits and _ -, a letter first")
        elif name.lower() in RESERVED_CLAIMS:
            entry.fail("is a claim that the broker itself, or a standard, gives a meaning")
        elif (value := entry.text(_MAX_VALUE)) is not None:
            claims[name] = value
    if len(claims) > MAX_CLAIMS:
        node.fail(f"at most {MAX_CLAIMS}")
    return claims


def _groups(node: Node) -> tuple[str, ...]:
    groups = [item.text(_MAX_VALUE) for item in node.items()]
    named = tuple(dict.fromkeys(group for group in groups if group is not None))
    if len(groups) > MAX_CLAIMS:
        node.fail(f"at most {MAX_CLAIMS}")
    return named
