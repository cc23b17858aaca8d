"""Authorization details (RFC 9396): what of them an audience understands and a role allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from broker.core.errors import Code
from broker.core.grant import Denied
from broker.core.policy.model import Audience, AudienceAllow

AGENT_TASK: Final = "agent_task"
"""The type that every audience understands."""


def check_details(audience: Audience, allowed: AudienceAllow, details: tuple[Mapping[str, Any], ...]) -> Denied | None:
    """Return why these elements may not be asked for at an audience, or None if they may."""
    for element in details:
        name = element["type"]
        if name != AGENT_TASK and name not in audience.details:
            return Denied(Code.DETAILS_NOT_SUPPORTED, "this audience does not know one of the types")
        if name not in allowed.details:
            return Denied(Code.DETAILS_NOT_ALLOWED, "not allowed to this agent: one of the types")
        known = audience.details.get(name)
        wrong = None if known is None else known.mismatch(element)
        if wrong is not None:
            return Denied(Code.DETAILS_INVALID, wrong)
    return None
