"""Erasing personal data: on an operator's word, or because it is old enough. The record stays, and can be proven."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from broker.core.change import Change, ErasePersonal
from broker.core.erasing import Erased, Forgetting, erased_entry
from broker.core.errors import Code, Refused
from broker.core.revoking import check_text
from broker.ports import Caller, Clock, Erasable, Ids, Ledger

PIECE: Final = 500
"""How many entries are erased in one change."""

PIECES: Final = 20
"""How many changes one call makes at most, each after a look at some entries; the next call goes on."""

BROKER: Final = "broker"
"""Who erases what is old."""

_DAY: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureOrder:
    """What an operator wants forgotten, and why; ``after`` is the place above which to go on."""

    forgetting: Forgetting
    reason: str
    by: str
    after: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureOutcome:
    """What one call came to: which erasure it was, how many entries lost their personal members.

    ``in_use`` counts those that were left, since what they record is not over. ``last`` is the place up to which was
    looked, ``more`` says that there are entries above it that may be meant. ``forgotten`` says that the files hold
    nothing any more of what was erased; else that is seen to once nobody reads an older state of them.
    """

    erasure: str
    entries: int
    in_use: int
    last: int
    more: bool
    forgotten: bool = False


class Erasure:
    """Erases in bounded pieces, each a change of its own. A crash leaves what is recorded erased, and nothing else."""

    def __init__(
        self, *, ledger: Ledger, erasable: Erasable, clock: Clock, ids: Ids, keep_days: int | None = None
    ) -> None:
        """``keep_days`` is after how many days personal data is erased by itself; None keeps it as long as entries."""
        self._ledger = ledger
        self._erasable = erasable
        self._clock = clock
        self._ids = ids
        self._keep_days = keep_days
        self._kept_up_to = -1
        self._round_at = clock.now()
        self._made, self._forgotten = 0, -1  # a process that ended in the middle may have left something in the log

    async def preview(self, order: ErasureOrder) -> ErasureOutcome:
        """Count what :meth:`erase` would erase, as far as one call looks. Changes nothing."""
        return await self._go_through(order, None)

    async def erase(self, order: ErasureOrder, caller: Caller) -> ErasureOutcome:
        """Erase what is meant and over, as far as one call goes; repeating it is harmless.

        Raises ``Refused``: ``MALFORMED_REQUEST``, or ``CONFLICT`` if a task or a reference is named that is in use.
        """
        check_text("reason", order.reason)
        if order.forgetting.names_one and (await self.preview(order)).in_use:
            raise Refused(Code.CONFLICT, "what is named is in use: close or revoke it, and wait until its time is over")
        outcome = await self._go_through(order, caller.members())
        return replace(outcome, forgotten=await self._forget())

    async def keep_up(self) -> None:
        """Erase some of what is old enough, and see to it that the files forget. Called again and again."""
        if self._keep_days is not None:
            await self._erase_old(self._keep_days, self._clock.now())
        await self._forget()

    async def _erase_old(self, days: int, now: float) -> None:
        if now - self._round_at >= _DAY:  # what was in use when it was looked at may be over
            self._kept_up_to, self._round_at = -1, now
        order = ErasureOrder(
            forgetting=Forgetting(before=now - days * _DAY),
            reason=f"personal data is kept for {days} days",
            by=BROKER,
            after=self._kept_up_to,
        )
        self._kept_up_to = (await self._go_through(order, {})).last

    async def _go_through(self, order: ErasureOrder, origin: Mapping[str, str] | None) -> ErasureOutcome:
        """Look for what is meant, some entries at a time, and erase it unless ``origin`` is None."""
        erasure, last, entries, in_use, more = self._ids.new("era"), order.after, 0, 0, True
        for _ in range(PIECES):
            now = self._clock.now()
            found = await self._erasable.forgettable(order.forgetting, now, after=last, limit=PIECE)
            if found.places and origin is not None:
                await self._erase(erasure, order, found.places, now, origin)
            entries, in_use = entries + len(found.places), in_use + found.in_use
            last, more = found.last, found.more
            if not more:
                break
        return ErasureOutcome(erasure=erasure, entries=entries, in_use=in_use, last=last, more=more)

    async def _erase(
        self, erasure: str, order: ErasureOrder, places: Sequence[int], now: float, origin: Mapping[str, str]
    ) -> None:
        erased = Erased(erasure=erasure, forgetting=order.forgetting, places=places, by=order.by, reason=order.reason)
        try:
            await self._ledger.commit(Change(erased_entry(erased, now, origin), (), (ErasePersonal(tuple(places)),)))
        finally:  # a commit that failed may have been applied
            self._made += 1

    async def _forget(self) -> bool:
        """Have the files forget what was erased before this call; what is erased meanwhile is for the next one."""
        made = self._made
        if self._forgotten < made and await self._erasable.forget_erased():
            self._forgotten = max(self._forgotten, made)
        return self._forgotten >= made
