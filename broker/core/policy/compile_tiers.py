"""Compiling tiers: how long, with what proof and with whose approval, in rising order of sensitivity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from broker.core.policy.document import Node
from broker.core.policy.model import Approval, Tier
from broker.core.policy.operator_scopes import OPERATOR_TIER

DEFAULT_TTL: Final = 15 * 60
"""Seconds that a grant lives at most, in a tier that does not say."""

LONG_TTL: Final = 3600
"""Seconds beyond which a tier must say ``allow_long: true``."""

LONGEST_TTL: Final = 24 * 3600
"""Seconds that no grant may exceed, whatever the policy says."""

MOST_APPROVERS: Final = 10
_OPTIONAL: Final = ("max_ttl", "allow_long", "proof_of_possession", "approval", "encrypted_delivery")


def compile_tiers(node: Node | None, roles: Mapping[str, int | None]) -> dict[str, Tier]:
    """Compile ``tiers``, and put the built-in tier ``operator`` above them unless the policy places it itself."""
    entries = [] if node is None else list(node.names("a tier"))
    tiers = {name: _tier(name, rank, entry, roles) for rank, (name, entry) in enumerate(entries)}
    tiers.setdefault(OPERATOR_TIER, Tier(name=OPERATOR_TIER, rank=len(tiers), max_ttl=DEFAULT_TTL))
    return tiers


def _tier(name: str, rank: int, node: Node, roles: Mapping[str, int | None]) -> Tier:
    found = node.members(*_OPTIONAL)
    allow_long = "allow_long" in found and found["allow_long"].flag() is True
    return Tier(
        name=name,
        rank=rank,
        max_ttl=_max_ttl(found["max_ttl"], allow_long=allow_long) if "max_ttl" in found else DEFAULT_TTL,
        proof_required=(
            "proof_of_possession" in found
            and found["proof_of_possession"].choice(("required", "optional")) == "required"
        ),
        approval=compile_approval(found["approval"], roles) if "approval" in found else None,
        encrypted=(
            "encrypted_delivery" in found and found["encrypted_delivery"].choice(("required", "optional")) == "required"
        ),
    )


def _max_ttl(node: Node, *, allow_long: bool) -> int:
    seconds = node.duration(LONGEST_TTL) or DEFAULT_TTL
    if seconds > LONG_TTL and not allow_long:
        node.fail("more than 1h keeps stolen credentials alive for long: add allow_long: true to the tier to insist")
    return seconds


def compile_approval(node: Node, roles: Mapping[str, int | None], *optional: str) -> Approval | None:
    """Compile whose approval is needed; ``optional`` names further members, which the caller reads.

    ``roles`` says of each role how many members it has, if it names all of them.
    """
    found = node.members(*optional, required=("approvers", "quorum", "expires"))
    approvers = found["approvers"].reference(roles, "a role") if "approvers" in found else None
    quorum = found["quorum"].number(1, MOST_APPROVERS) if "quorum" in found else None
    expires = found["expires"].duration(LONGEST_TTL) if "expires" in found else None
    most = None if approvers is None else roles[approvers]
    if quorum is not None and most is not None and quorum > most:
        found["quorum"].fail(f"the role {approvers} names fewer agents ({most}): nobody could ever approve this")
    if approvers is None or quorum is None or expires is None:
        return None
    return Approval(approvers=approvers, quorum=quorum, expires=expires)
