"""One run: clients, verifiers and a revoker around brokers, and faults if there are to be some."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

from tests.chaos import check_law_2
from tests.chaos.clients import work
from tests.chaos.crew import Hand
from tests.chaos.faults import Fault, befall, of_hand, of_member, of_road
from tests.chaos.ground import Ground
from tests.chaos.journal import Journal
from tests.chaos.revoking import SELECTORS, Habits, revoke
from tests.chaos.verifying import WITHIN, verify
from tests.support.road import Road

WARM_SECONDS: Final = 2.0

WAIT: Final = 15.0
"""Longer than it takes a verifier that has ended to be known as refusing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What happens in a run. Times are seconds.

    Clients and verifiers go round every ``pause``. Each of the ``revokers`` revokes something ``every`` so often, by
    one of ``kinds`` in turn, and may ``wait`` for it to be applied, until it has done that ``revocations`` times or
    the ``seconds`` are over. So many ``faults`` happen at a time, each ``calm`` after the one before.
    """

    verifiers: int
    pause: float
    every: float
    seconds: float
    revokers: int = 1
    revocations: int | None = None
    wait: float = WAIT
    kinds: tuple[str, ...] = tuple(SELECTORS)
    faults: int = 0
    calm: float = 1.0

    @property
    def names_of_revokers(self) -> tuple[str, ...]:
        """What the processes are called that revoke."""
        return tuple(f"revoker-{number}" for number in range(1, self.revokers + 1))


class Refuted(Exception):
    """The checker has found something, and this says what."""


@dataclass
class Run:
    """A plan on a ground that is prepared. ``figures`` are what the checker has counted."""

    ground: Ground
    plan: Plan
    figures: str = ""
    _faults: list[Fault] = field(default_factory=list)
    _hands: list[Hand] = field(default_factory=list)

    async def run(self) -> None:
        """Let everybody work, until the time is over or the revocations are done, and have the run judged.

        Raises ``Refuted`` if the checker finds anything, or a broker met an error that it does not know.
        """
        async with AsyncExitStack() as stack:
            self._faults += await self.ground.open(stack)
            try:
                await asyncio.to_thread(self.ground.start)
                self._faults += [fault for member in self.ground.members for fault in of_member(member)]
                await self._work()
                evidence = await asyncio.to_thread(self.ground.evidence)
            finally:
                self.ground.end()
        if surprises := self.ground.surprises():
            raise Refuted("\n".join(("a broker met what it does not expect:", *surprises)))
        self._judge(evidence)

    async def _work(self) -> None:
        plan, ground = self.plan, self.ground
        async with AsyncExitStack() as stack:
            try:
                await self._gather(stack)
                await asyncio.sleep(WARM_SECONDS)
                until = time.monotonic() + plan.seconds
                revokers = [self._revoker(name) for name in plan.names_of_revokers]
                journal, over = Journal(ground.place().journals, "faults"), asyncio.Event()
                async with asyncio.TaskGroup() as group:
                    for _ in range(plan.faults):
                        group.create_task(befall(self._faults, journal, pause=plan.calm, over=over))
                    for revoker in revokers:
                        await asyncio.to_thread(revoker.process.join, max(0.0, until - time.monotonic()))
                    over.set()
            finally:
                for hand in self._hands:
                    hand.kill()

    async def _gather(self, stack: AsyncExitStack) -> None:
        """Start clients, each with a road of its own to each broker, and verifiers, each with one to all."""
        ground, plan = self.ground, self.plan
        ports, revokers = ground.place().ports, plan.names_of_revokers
        holders = (*ground.clients, *revokers)
        for name in ground.clients:
            roads = [await self._road(stack, f"road of {name}", [port]) for port in ports]
            place = ground.place(tuple(road.port for road in roads))
            self._begin(name, work, place, name, revokers, pause=plan.pause)
        for number in range(1, plan.verifiers + 1):
            name = f"verifier-{number}"
            road = await self._road(stack, f"road of {name}", ports)
            hand = self._begin(name, verify, ground.place(), name, holders, through=road.port, pause=plan.pause)
            self._faults += of_hand(hand)

    def _revoker(self, name: str) -> Hand:
        ground, plan = self.ground, self.plan
        habits = Habits(plan.kinds, plan.every, plan.wait, plan.revocations)
        return self._begin(name, revoke, ground.place(), name, ground.clients, habits)

    def _begin(self, name: str, does: Callable[..., None], *arguments: object, **settings: object) -> Hand:
        hand = Hand(name, does, arguments, settings)
        hand.start()
        self._hands.append(hand)
        return hand

    async def _road(self, stack: AsyncExitStack, target: str, ends: Sequence[int]) -> Road:
        road = await stack.enter_async_context(Road(ends))
        self._faults += of_road(road, target)
        return road

    def _judge(self, evidence: Sequence[str]) -> None:
        # A broker may sign what it knows for so long after a rule that it has not heard of; verifiers hear of that.
        within = self.ground.within
        bounds = ["--brokers-within", str(within), "--verifiers-within", str(within + WITHIN)]
        journals = str(self.ground.place().journals)
        command = [sys.executable, check_law_2.__file__, journals, *evidence, *bounds]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Refuted(done.stdout + done.stderr)
        self.figures = done.stdout
