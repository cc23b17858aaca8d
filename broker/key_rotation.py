"""Rotating the broker's signing keys: in good time, or at once in an emergency.

Keys are in force as soon as they are recorded, whichever process recorded them: the ledger tells the ring of it before
it answers. So nothing can fail between the two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from broker.core.change import Change, PutKey, StoredKey
from broker.core.entry import Kind, entry
from broker.core.key_schedule import Rotation
from broker.ports import Caller, Clock, Ledger, Records


class KeyCustody(Protocol):
    """Makes keys and holds them open for signing."""

    def rotated(self, now: float) -> Rotation:
        """Return a new key for each algorithm in use: published at once, signing only when verifiers know it."""
        ...

    def replaced(self, now: float) -> Rotation:
        """Return new keys that sign at once, and every older key as revoked and compromised."""
        ...


class KeyRotation:
    """Changes the key ring; the ledger records it before any new key signs."""

    def __init__(self, *, custody: KeyCustody, ledger: Ledger, records: Records, clock: Clock) -> None:
        """All rows are in the ledger; ``custody`` holds the private keys, and follows the ledger."""
        self._custody = custody
        self._ledger = ledger
        self._records = records
        self._clock = clock
        self._turn = asyncio.Lock()

    async def keys(self) -> Sequence[StoredKey]:
        """Return every key of the ring, revoked ones included."""
        return await self._records.keys()

    async def rotate(self, *, by: str, caller: Caller) -> Rotation:
        """Rotate by the book: publish first, sign later, keep the old keys until their last token has expired."""
        now = self._clock.now()
        return await _whole(self._apply(self._custody.rotated, now, by, None, caller))

    async def replace(self, *, by: str, reason: str, caller: Caller) -> Rotation:
        """Replace all keys at once. The caller then revokes what the ``compromised`` keys have signed."""
        now = self._clock.now()
        return await _whole(self._apply(self._custody.replaced, now, by, reason, caller))

    async def _apply(
        self, change: Callable[[float], Rotation], now: float, by: str, reason: str | None, caller: Caller
    ) -> Rotation:
        async with self._turn:
            rotation = await asyncio.to_thread(change, now)  # making keys takes long enough to stall the event loop
            record = entry(
                Kind.KEYS_ROTATED,
                now,
                by=by,
                reason=reason,
                keys=[
                    {"kid": row.kid, "alg": row.alg, "use": row.use, "revoked": row.revoked} for row in rotation.rows
                ],
                **caller.members(),
            )
            await self._ledger.commit(Change(record, (), tuple(PutKey(row) for row in rotation.rows), urgent=True))
            return rotation


async def _whole(work: Coroutine[Any, Any, Rotation]) -> Rotation:
    """Run to the end even if the caller gives up: the keys that the ledger records are those that sign."""
    return await asyncio.shield(asyncio.ensure_future(work))
