"""Whether this process knows all that is in force, before it judges anything: what the others announce, it looks up.

The others announce a change before they commit it. So a view that holds what is announced is not older than the ledger,
and to know that takes a comparison. A change that was announced and never made costs a look at the head, until the next
turn of any writer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from broker.background import Background
from broker.core.errors import Code, Unavailable


class AnnouncedFreshness:
    """Implements ``Freshness`` for the processes of one host."""

    def __init__(
        self, announced: Callable[[], int], known: Callable[[], int], look: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """``announced`` and ``known`` are sizes of the ledger; ``look`` brings the view up to date, or raises."""
        self._announced = announced
        self._known = known
        self._look = look
        self._background = Background()
        self._looking: asyncio.Task[None] | None = None

    async def ensure(self) -> None:
        """Return at once if nothing is announced that is not known; else look it up first."""
        if self._known() >= self._announced():
            return
        await self._looked()
        if self._known() < self._announced():
            # That look may have begun before we asked. This one did not; what it does not find, is not there.
            await self._looked()

    async def close(self) -> None:
        """Wait for a look that is being taken."""
        if self._looking is not None:
            await asyncio.wait([self._looking])

    async def _looked(self) -> None:
        """Wait for a look, which all share who ask meanwhile. Raises :class:`Unavailable` (``RULES_STALE``)."""
        if self._looking is None or self._looking.done():
            self._looking = self._background.start(self._look())
        try:
            # One that gives up must not take the look away from the others.
            await asyncio.shield(self._looking)
        except Unavailable as error:
            text = "the rules in force cannot be read now, so that nothing can be said of any token"
            raise Unavailable(Code.RULES_STALE, text, retry_after=1) from error
