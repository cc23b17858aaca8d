"""Receipts of ledger entries: for operators of any, for an agent of those that are about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from broker.core.errors import BrokerError, Code
from broker.ports import Proofs, Proven, Record, Records


@dataclass(frozen=True, slots=True)
class Receipted:
    """An entry with its receipt: a text that shows, to whoever has the verifier key, that the ledger has the entry."""

    record: Record
    receipt: str


class Receipts:
    """Gives receipts. Nothing is written for it, except a checkpoint for what is younger than the last one."""

    def __init__(self, *, proofs: Proofs, records: Records, write: Callable[[Proven], str]) -> None:
        """``write`` puts a proof into the form of a receipt (C2SP tlog-proof)."""
        self._proofs = proofs
        self._records = records
        self._write = write

    async def of(self, seq: int) -> Receipted:
        """Return the entry at a place with its receipt. Raises like :meth:`broker.ports.Proofs.prove`."""
        proven = await self._proofs.prove(seq)
        return Receipted(proven.record, self._write(proven))

    async def of_own(self, ref: str, agent: str) -> Receipted:
        """Return the entry that a reference names with its receipt, if it is about this agent.

        Raises ``BrokerError`` (``NOT_FOUND``) if there is none, and in the same words if it is about somebody else.
        """
        record = await self._records.record_of(ref)
        if record is None or record.members.get("agent") != agent:
            raise BrokerError(Code.NOT_FOUND, "the ledger has no entry of this id about you")
        return await self.of(record.seq)
