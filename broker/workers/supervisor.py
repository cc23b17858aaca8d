"""The supervisor: keeps so many workers running, replaces those that die, and ends with them.

It never touches a request. What it must do to survive is little, so that it does.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from broker.background import Background
from broker.core.pacing import Backoff, Timing
from broker.ports import Events
from broker.systemd import notify
from broker.workers.child import Child, Command
from broker.workers.messages import Reload, Retire
from broker.workers.switchboard import Switchboard

GIVE_UP: Final = 5
"""So many workers in a row that ended before they served, while no other serves, end the supervisor."""

STEADY_SECONDS: Final = 1.0
"""A worker that ends sooner than this has failed at once: the next one starts after a pause, which grows."""

PAUSES: Final = Backoff(first=0.5, longest=30.0)

MEASURE_SECONDS: Final = 2.0
"""How often workers are asked what they have counted, in case that they die."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to keep running.

    ``command`` is the command line of a worker in a place (from 0), which says whether it takes the place of one that
    died; ``inherits`` are the descriptors that each is given. ``stop_seconds`` is how long one may take to end.
    """

    count: int
    command: Callable[[int, bool], Command]
    inherits: Sequence[int]
    stop_seconds: float


class Supervisor:
    """Runs a plan. Belongs to one event loop."""

    def __init__(self, plan: Plan, switchboard: Switchboard, timing: Timing, events: Events) -> None:
        """Nothing runs before :meth:`run`."""
        self._plan = plan
        self._switchboard = switchboard
        self._timing = timing
        self._events = events
        self._serving: dict[int, Child] = {}
        self._living: set[Child] = set()
        self._stopping = asyncio.Event()
        self._rolling = asyncio.Lock()
        self._failed = 0
        self._code = 0
        self._background = Background()

    async def run(self) -> int:
        """Run until told to stop, or until workers cannot be kept running; return the exit code.

        The first worker starts alone: it brings the ledger up to date, and if it cannot serve, none can.
        """
        if not await self._begin():
            return self._code
        keeping = [asyncio.create_task(self._keep(place)) for place in range(self._plan.count)]
        measuring = asyncio.create_task(self._measure())
        await self._stopping.wait()
        notify("STOPPING=1")
        for task in (measuring, *keeping):
            task.cancel()
        await asyncio.gather(measuring, *keeping, return_exceptions=True)
        await asyncio.gather(*(self._end(child) for child in tuple(self._living)))
        await self._background.cancel()
        return self._code

    def stop(self) -> None:
        """End all workers: what they have accepted is answered."""
        self._stopping.set()

    def reload(self) -> None:
        """Let all workers take the policy and the certificate from their files."""
        self._background.begin(self._reload())

    def roll(self) -> None:
        """Replace the workers one by one; each new one serves before the old one is told to end."""
        self._background.begin(self._roll())

    # --- keeping them running ---------------------------------------------------------------------------------------

    async def _begin(self) -> bool:
        """Start the first worker; whether it serves."""
        child = await self._start(0, replaces=False)
        stopping = asyncio.create_task(self._stopping.wait())
        ready = asyncio.create_task(child.ready_or_ended())
        await asyncio.wait({stopping, ready}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if ready.done() and ready.result():
            self._serves(0, child)
            return True
        ready.cancel()
        code = await self._end(child)
        self._code = 0 if self._stopping.is_set() else exit_code(code)
        return False

    async def _keep(self, place: int) -> None:
        """Keep a worker in a place: start one, wait until it has ended, and begin again."""
        failures, replaces = 0, False
        while not self._stopping.is_set():
            child = self._serving.get(place) or await self._new(place, None, replaces=replaces)
            if child is None:
                failures += 1
            else:
                begun = self._timing.elapsed()
                code = await child.ended()
                if self._serving.get(place) is not child:
                    continue  # another one has taken its place, as it was told to
                del self._serving[place]
                self._events.error("worker.died", place=place, process=child.pid, code=code)
                failures = 0 if self._timing.elapsed() - begun >= STEADY_SECONDS else failures + 1
            replaces = True
            if failures > 1:  # the first time it is replaced at once
                await self._timing.sleep(PAUSES.delay(failures - 2, self._timing.spread()))

    async def _new(self, place: int, old: Child | None, *, replaces: bool) -> Child | None:
        """Start a worker that takes the place of ``old`` once it serves; return who has the place, None if it ends.

        It will read the policy file as it is now. So another worker does that before, which knows the policy that is in
        force until then, and can see to what the new one narrows.
        """
        if replaces or old is not None:
            await self._take_policy()
        child = await self._start(place, replaces=replaces)
        if not await child.ready_or_ended():
            self._note_failure(place, child.pid, await child.ended())
            return None
        self._failed = 0
        if self._serving.get(place) is not old:  # which died meanwhile, and somebody else was or is being put there
            await child.ask(Retire())
            return self._serving.get(place)
        self._serves(place, child)
        return child

    def _serves(self, place: int, child: Child) -> None:
        self._serving[place] = child
        self._events.info("worker.serving", place=place, process=child.pid)
        if len(self._serving) == self._plan.count:
            notify("READY=1")

    def _note_failure(self, place: int, process: int, code: int) -> None:
        self._failed += 1
        self._events.error("worker.not_started", place=place, process=process, code=code)
        if self._failed >= GIVE_UP and not self._serving:
            self._code = exit_code(code)
            self._stopping.set()

    async def _start(self, place: int, *, replaces: bool) -> Child:
        child = await Child.started(self._plan.command(place, replaces), self._plan.inherits, self._switchboard.answer)
        self._living.add(child)
        self._background.begin(self._bury(child))
        if self._stopping.is_set():
            child.send(signal.SIGTERM)
        return child

    async def _end(self, child: Child) -> int:
        """Tell a worker to end, and see that it does; return its exit code."""
        child.send(signal.SIGTERM)
        return await child.end_within(self._plan.stop_seconds)

    async def _bury(self, child: Child) -> None:
        """See to what a worker leaves behind when it ends."""
        await child.ended()
        self._living.discard(child)
        self._switchboard.gone(child.pid)

    async def _measure(self) -> None:
        while True:
            await self._timing.sleep(MEASURE_SECONDS)
            await self._switchboard.measure()

    # --- what signals ask for ---------------------------------------------------------------------------------------

    async def _take_policy(self) -> None:
        """Let one worker take the policy for all; the ledger tells the others."""
        for child in tuple(self._serving.values()):
            if await child.ask(Reload(policy=True)):
                return

    async def _reload(self) -> None:
        """Let one worker take the policy, and each take the certificate."""
        notify(f"RELOADING=1\nMONOTONIC_USEC={int(self._timing.elapsed() * 1_000_000)}")
        async with self._rolling:
            await self._take_policy()
            for place, child in sorted(self._serving.items()):
                if not await child.ask(Reload(policy=False)):
                    self._events.error("worker.not_reloaded", place=place, process=child.pid)
        notify("READY=1")

    async def _roll(self) -> None:
        async with self._rolling:
            for place in range(self._plan.count):
                if self._stopping.is_set():
                    return
                old = self._serving.get(place)
                if old is None:
                    continue  # a new one is being started anyway
                if await self._new(place, old, replaces=False) is None:
                    self._events.error("workers.not_replaced", place=place)
                    return
                if self._serving.get(place) is not old:
                    await old.ask(Retire())
                    await old.end_within(2 * self._plan.stop_seconds)
        self._events.info("workers.replaced")


def exit_code(code: int) -> int:
    """Return what the supervisor ends with when a worker's end is its own: of a signal, 1."""
    return code if code > 0 else 1
