"""The broker checks its own past: what others know of the ledger, and, again and again, everything in it.

A ledger that does not pass is condemned: nothing is written to it any more, so that nothing is issued (law 1). Revoking
goes on in memory and towards verifiers, and so does introspection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from broker.core.errors import BrokerError
from broker.core.pacing import Timing
from broker.core.soundness import Fault, Unsound
from broker.core.tree_head import KnownHead
from broker.ports import Events, SelfExamined

Outside = Callable[[], Awaitable[Mapping[str, KnownHead | BrokerError | None]]]
"""Asks everybody outside who keeps checkpoints for the youngest that they hold.

By what it is called, such as ``the checkpoint at the anchor offsite``: None if they hold none, or why they did not say.
"""

PIECE: Final = 250
"""How many entries are gone through at once: some milliseconds of work beside everything else."""

OUTSIDE_SECONDS: Final = 5.0
"""How long others are waited for, all together."""

_TOLD: Final = 20


class SelfCheck:
    """Checks the ledger in use. One examination at a time."""

    def __init__(
        self,
        *,
        ledger: SelfExamined,
        outside: Outside,
        size: Callable[[], int],
        timing: Timing,
        events: Events,
        entries_per_second: float,
    ) -> None:
        """``size`` returns how many entries there are, without reading the ledger.

        No more than ``entries_per_second`` are gone through. What is added meanwhile waits for the next time.
        """
        self._ledger = ledger
        self._outside = outside
        self._size = size
        self._timing = timing
        self._events = events
        self._rate = entries_per_second
        self._passed_at = timing.elapsed()
        self._told: Unsound | None = None
        self.checked = 0
        """How many entries were gone through since this process started."""

    @property
    def unsound(self) -> Unsound | None:
        """Why nothing may be issued; None if nothing is known against the ledger."""
        return self._ledger.unsound

    def seconds_since_pass(self) -> float:
        """Return how long ago everything was gone through for the last time, or this process began."""
        return self._timing.elapsed() - self._passed_at

    def tell(self) -> None:
        """Log what is wrong, once, whoever noticed it."""
        unsound = self.unsound
        if unsound is not None and unsound != self._told:
            self._events.error(
                "ledger.unsound",
                fault=unsound.fault.value,
                problems=list(unsound.problems[:_TOLD]),
                way_on=unsound.way_on,
            )
        self._told = unsound

    async def look_outside(self) -> None:
        """Ask others what they know of the ledger, and hold it against that. Raises ``Unavailable``.

        What was held against the ledger by an earlier process is forgotten once everybody answers, and it fits.
        """
        if self.unsound is not None and not self._ledger.is_remembered:
            self.tell()
            return  # nothing that others know could make it worse
        known, everybody = await self._known()
        behind = tuple(await self._ledger.contradictions(known))
        if behind:
            await self._ledger.condemn(Unsound(Fault.BEHIND, behind), self._size())
        elif everybody:
            await self._ledger.absolve(self._size())
        self.tell()

    async def heed(self) -> None:
        """Take over what another process has found of the ledger."""
        await self._ledger.heed()
        self.tell()

    async def go_through(self) -> None:
        """Examine everything that is stored, slowly. Raises ``Unavailable`` if it cannot be read now."""
        known, _ = await self._known()
        examining = await self._ledger.examine(known)
        while (done := await examining.step(PIECE)) == PIECE:
            self.checked += done
            await self._timing.sleep(PIECE / self._rate)
        unsound = await examining.finish()
        self.checked += done
        self._passed_at = self._timing.elapsed()
        if unsound is not None:
            await self._ledger.condemn(unsound, examining.entries)
        elif self.unsound is None:
            await self._ledger.passed(examining.entries)
        self.tell()

    async def _known(self) -> tuple[Mapping[str, KnownHead], bool]:
        """Return what others know, and whether everybody said so."""
        try:
            async with asyncio.timeout(OUTSIDE_SECONDS):
                answers = await self._outside()
        except TimeoutError:
            return {}, False
        failed = [says for says, answer in answers.items() if isinstance(answer, BrokerError)]
        return {says: answer for says, answer in answers.items() if isinstance(answer, KnownHead)}, not failed
