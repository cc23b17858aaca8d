"""What the workers have in common besides the ledger: it lives in the supervisor, which outlives all of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from broker.background import Background
from broker.core.errors import BrokerError
from broker.core.revoking import Making
from broker.core.used_proofs import UsedProofs
from broker.ports import Events
from broker.workers.channel import Channel
from broker.workers.counting import Counting
from broker.workers.messages import (
    DONE,
    Forget,
    Gather,
    Hear,
    Join,
    Judged,
    Measure,
    Measured,
    Message,
    Settled,
    Tell,
    Unwritten,
    UseProof,
)

TELL_SECONDS: Final = 2.0
"""How long a rule's maker waits for the others to hear it. A worker that takes longer hears it all the same."""

MEASURE_SECONDS: Final = 1.0
"""How long a worker may take to say what it has counted; else it is what it said last."""


@dataclass(frozen=True, slots=True)
class _Pending:
    """A rule in force beside the ledger, and the worker that is to write it; None if that one is gone."""

    made: Making
    writer: int | None


class Switchboard:
    """Answers the workers and connects them. A worker is known by its process id. Belongs to one event loop."""

    def __init__(self, proofs: UsedProofs, events: Events) -> None:
        """Nobody has joined."""
        self._proofs = proofs
        self._events = events
        self._joined: dict[int, Channel] = {}
        self._pending: dict[str, _Pending] = {}
        self._counting = Counting()
        self._background = Background()

    async def answer(self, worker: int, channel: Channel, message: Message) -> Message:
        """Do what a worker asks. Raises ``ValueError`` for what a worker does not ask."""
        match message:
            case UseProof():
                use = await self._proofs.use(message.agent, message.key, message.expires_at, message.now)
                return Judged(use)
            case Join():
                return self._join(worker, channel)
            case Tell():
                self._pending[message.made.rule.id] = _Pending(message.made, worker)
                await self._others(worker, Hear((message.made,)))
            case Settled():
                if self._pending.pop(message.rule, None) is not None:
                    await self._others(worker, Forget(message.rule))
            case Gather():
                await self.measure()
                return Measured(tuple(self._counting.total()))
            case Measured():
                self._counting.counted(worker, message.families)
            case _:
                raise ValueError(type(message).__name__)
        return DONE

    def gone(self, worker: int) -> None:
        """A worker has ended: another one writes the rules that it could not."""
        self._counting.ended(worker)
        self._joined.pop(worker, None)
        orphans = [pending.made for pending in self._pending.values() if pending.writer == worker]
        heir = min(self._joined, default=None)
        for made in orphans:
            self._pending[made.rule.id] = _Pending(made, heir)
        if orphans and heir is not None:
            self._events.info("rules.adopted", rules=[made.rule.id for made in orphans], worker=heir)
            _ = self._background.start(self._say(self._joined[heir], Hear(tuple(orphans), adopt=True), TELL_SECONDS))

    async def measure(self) -> None:
        """Ask every worker what it has counted."""
        await asyncio.gather(*(self._measure(worker, channel) for worker, channel in tuple(self._joined.items())))

    def _join(self, worker: int, channel: Channel) -> Unwritten:
        orphans = tuple(pending.made for pending in self._pending.values() if pending.writer is None)
        for made in orphans:
            self._pending[made.rule.id] = _Pending(made, worker)
        self._joined[worker] = channel
        return Unwritten(tuple(pending.made for pending in self._pending.values()), orphans)

    async def _others(self, worker: int, message: Message) -> None:
        others = [channel for other, channel in self._joined.items() if other != worker]
        await asyncio.gather(*(self._say(channel, message, TELL_SECONDS) for channel in others))

    async def _measure(self, worker: int, channel: Channel) -> None:
        answer = await self._say(channel, Measure(), MEASURE_SECONDS)
        if isinstance(answer, Measured) and worker in self._joined:
            self._counting.counted(worker, answer.families)

    async def _say(self, channel: Channel, message: Message, seconds: float) -> Message | None:
        """Tell one worker something; None if it is gone, cannot, or does not answer in time (it may do so later)."""
        try:
            async with asyncio.timeout(seconds):
                return await channel.call(message)
        except (BrokerError, TimeoutError):
            return None
