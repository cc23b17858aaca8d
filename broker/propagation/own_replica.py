"""What this process tells of itself to those that share its ledger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from broker.core.errors import Unavailable
from broker.core.propagation import Replica
from broker.ports import Events, Presence

TELL_SECONDS: Final = 5.0
"""How often a replica says that it is there, when nothing has changed."""


class OwnReplica:
    """This replica. One that applies every rule with its commit has nobody to tell, and writes nothing."""

    def __init__(
        self, presence: Presence, now: Callable[[], Replica], *, elapsed: Callable[[], float], events: Events
    ) -> None:
        """``now`` returns what the replica is at this moment; ``elapsed`` is a clock that never goes back."""
        self._presence = presence
        self.now = now
        self._elapsed = elapsed
        self._events = events
        self._told: tuple[int, str, float] | None = None

    async def join(self) -> None:
        """Tell of this replica before it answers anybody. If that cannot be written now, it is told later."""
        try:
            await self.step()
        except Unavailable as error:
            self._events.error("replica.not_told", code=error.code.value)

    async def step(self) -> None:
        """Tell of this replica if it has changed, or was not told of for a while. Raises ``Unavailable``."""
        replica, now = self.now(), self._elapsed()
        if not replica.max_staleness:
            return
        told = self._told
        if told is None or told[:2] != (replica.epoch, replica.policy) or now - told[2] >= TELL_SECONDS:
            await self._presence.tell(replica)
            self._told = (replica.epoch, replica.policy, now)

    async def leave(self) -> None:
        """Say that this replica has ended. If that cannot be written, it is forgotten in time."""
        if self._told is not None:
            try:
                await self._presence.leave(self.now().id)
            except Unavailable as error:
                self._events.error("replica.not_told", code=error.code.value)
