"""A worker: serves like a broker that is alone, and has its siblings behind one channel to the supervisor."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence

from broker import serving
from broker.config import Config
from broker.core.errors import BrokerError
from broker.core.revoking import Making
from broker.core.used_proofs import ProofUse
from broker.ledger.sharing.family import Family
from broker.metrics import Family as Measurements
from broker.serving import Running
from broker.wiring import Place
from broker.workers.channel import Channel
from broker.workers.listening import inherited
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
    Ready,
    Reload,
    Retire,
    Settled,
    Tell,
    Unwritten,
    UseProof,
)
from broker.workers.station import Station


async def work(config: Config, station: Station) -> None:
    """Serve in a place until told to stop, or until the supervisor is gone. Raises what :func:`serving.serve` does."""
    for descriptor in station.descriptors():
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - it takes no names. Programs that a worker starts must not keep them open
    worker = await Worker.connected(station)
    await serving.serve(config, worker)


class Worker:
    """The worker's end of the channel; implements ``Kin``, and the ports that reach the others through it."""

    def __init__(self, station: Station) -> None:
        """Use :meth:`connected`."""
        self._station = station
        self._channel: Channel | None = None
        self._running: Running | None = None
        self._listening: asyncio.Task[None] | None = None

    @classmethod
    async def connected(cls, station: Station) -> Worker:
        """Open the channel to the supervisor."""
        worker = cls(station)
        end = socket.socket(fileno=station.channel)
        end.settimeout(0)
        worker._channel = await Channel.over(end, worker.answer)
        worker._listening = asyncio.create_task(worker._channel.serve())
        worker._listening.add_done_callback(lambda _: worker._abandoned())
        return worker

    # --- Kin --------------------------------------------------------------------------------------------------------

    @property
    def place(self) -> Place:
        """Where this process stands."""
        station = self._station
        return Place(
            workers=station.workers,
            since=station.since,
            family=Family(station.lock, station.board),
            announces=station.place == 0 or station.replaces,
            proofs=self,
            siblings=self,
            gathered=self.gathered,
        )

    @property
    def public(self) -> Sequence[socket.socket]:
        """The sockets of the public listener."""
        return inherited(self._station.public)

    @property
    def private(self) -> Sequence[socket.socket]:
        """The sockets of the private listener."""
        return inherited(self._station.private)

    async def join(self, running: Running) -> None:
        """Take part: from now on whatever the others tell is heard here."""
        self._running = running
        unwritten = await self._call(Join())
        if isinstance(unwritten, Unwritten):
            orphans = {made.rule.id for made in unwritten.orphans}
            for made in unwritten.made:
                running.broker.services.revocation.hear(made, adopt=made.rule.id in orphans)

    async def ready(self) -> None:
        """Say that this worker serves."""
        await self._call(Ready())

    async def leave(self) -> None:
        """Say what was counted, for the last time."""
        if self._running is not None:
            try:
                await self._call(self._measured(self._running))
            except BrokerError:
                return  # the supervisor is gone, and with it everybody who could want to know

    # --- the ports --------------------------------------------------------------------------------------------------

    async def use(self, agent: str, key: bytes, expires_at: int, now: float) -> ProofUse:
        """Use a proof up, among all workers; see ``ProofMemory``."""
        judged = await self._call(UseProof(agent, key, expires_at, now))
        return judged.use if isinstance(judged, Judged) else ProofUse.USED

    async def tell(self, made: Making) -> None:
        """Put a rule in force everywhere; see ``Siblings``."""
        await self._say(Tell(made))

    async def settled(self, rule_id: str) -> None:
        """Forget a rule that was told; see ``Siblings``."""
        await self._say(Settled(rule_id))

    async def gathered(self) -> Sequence[Measurements]:
        """Return what all workers have measured; what this one has if the supervisor cannot say."""
        measured = await self._call(Gather())
        return measured.families if isinstance(measured, Measured) else ()

    # --- what the supervisor asks -----------------------------------------------------------------------------------

    async def answer(self, message: Message) -> Message:
        """Do what the supervisor asks. Raises ``ValueError`` for what it does not ask, or too early."""
        if self._running is None:
            raise ValueError(type(message).__name__)
        revocation = self._running.broker.services.revocation
        match message:
            case Hear():
                for made in message.made:
                    revocation.hear(made, adopt=message.adopt)
            case Forget():
                revocation.forget(message.rule)
            case Measure():
                return self._measured(self._running)
            case Reload():
                await self._running.reload(policy=message.policy)
            case Retire():
                self._running.retire()
            case _:
                raise ValueError(type(message).__name__)
        return DONE

    def _measured(self, running: Running) -> Measured:
        return Measured(running.broker.services.metrics.families())

    def _abandoned(self) -> None:
        """Without a supervisor nobody would restart or stop this process, nor know which proofs were used: it ends."""
        if self._running is not None:
            self._running.stop()

    async def _call(self, message: Message) -> Message:
        if self._channel is None:
            raise ValueError("not connected")
        return await self._channel.call(message)

    async def _say(self, message: Message) -> None:
        try:
            await self._call(message)
        except BrokerError:
            return  # the supervisor is gone, and this process about to end
