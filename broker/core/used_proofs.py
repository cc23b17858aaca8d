"""Used DPoP proofs of all agents: remembered until they expire, with a fair share of the memory for each agent."""

from __future__ import annotations

from enum import Enum

from broker.core.dpop import MAX_REMEMBERED, PROOF_SHARES, ReplayWindow
from broker.core.tally import Allowance


class ProofUse(Enum):
    """What became of an attempt to use a proof up."""

    FRESH = "fresh"
    """It was never used before, and is used now."""

    USED = "used"
    """It was used before, or may have been."""

    UNCERTAIN = "uncertain"
    """It was not used in this process; whether it was in another one, cannot be found out now."""

    TOO_MANY = "too_many"
    """The agent has used so many of late that no more are remembered for it."""


class UsedProofs:
    """The memory itself; implements the port ``ProofMemory`` for whoever is in the same process."""

    def __init__(self, most: int = MAX_REMEMBERED, *, since: float) -> None:
        """At most ``most`` are remembered. ``since`` (Unix seconds) is when this memory begins."""
        self._window = ReplayWindow(most, since=since)
        self._fair_share = Allowance(max(1, most // PROOF_SHARES))

    async def use(self, agent: str, key: bytes, expires_at: int, now: float) -> ProofUse:
        """Use a proof up; no agent can fill the memory and lock the others out."""
        if not self._fair_share.admit(agent, now):
            return ProofUse.TOO_MANY
        return ProofUse.FRESH if self._window.use(key, expires_at, now) else ProofUse.USED
