"""The other processes that serve the same ledger: who leads, and what is known to all although it is not written."""

from __future__ import annotations

from typing import Protocol

from broker.core.revoking import Making
from broker.core.used_proofs import ProofUse


class Leadership(Protocol):
    """Says which of the processes of one ledger does what only one may do."""

    def leads(self) -> bool:
        """Whether it is this one now. Never true of two living processes; soon true of another when one dies."""
        ...


class ProofMemory(Protocol):
    """Remembers used DPoP proofs, for all processes that the same proof could be sent to."""

    async def use(self, agent: str, key: bytes, expires_at: int, now: float) -> ProofUse:
        """Use a proof up. Of two calls with the same ``key``, wherever they are made, only one is ``FRESH``.

        Of two in the same process, only one is ``FRESH`` or ``UNCERTAIN``. Raises ``Unavailable`` if there is no memory
        at all; then the proof must not be accepted.
        """
        ...


class Siblings(Protocol):
    """Carries rules that are in force but not durable (law 1) to the other processes, and remembers them."""

    async def tell(self, made: Making) -> None:
        """Put a rule in force everywhere; returns once it is, or after a short time. Never raises.

        When this process dies, another one writes the rule.
        """
        ...

    async def settled(self, rule_id: str) -> None:
        """Forget a rule that was told: it is written, or withdrawn. Never raises."""
        ...
