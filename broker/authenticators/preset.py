"""What a preset is: how the verified claims of one kind of provider become an agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from broker.authenticators.claim_sheet import ClaimSheet
from broker.core.identity import Agent
from broker.core.issuer import TrustedIssuer
from broker.core.jwt import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One kind of provider.

    ``row`` is what its tokens are held to, but for what the trusted issuer's definition says itself (algorithms,
    lifetime). ``identify`` makes the agent from verified claims; it raises ``InvalidToken``. ``sheet`` accounts for the
    claims; None exposes whatever there is. ``method`` is how the ledger names this way of authenticating. ``key_use``
    is the ``use`` of its signing keys.
    """

    row: Row
    sheet: ClaimSheet | None
    identify: Callable[[Mapping[str, Any], TrustedIssuer], Agent]
    method: str = "platform"
    key_use: str = "sig"
