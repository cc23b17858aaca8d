"""What goes wrong during a run: one fault after the other, each with an end, on something that has no other now."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tests.chaos.crew import Hand
from tests.chaos.journal import Journal
from tests.chaos.member import Member
from tests.support.road import Road

SKEWS: Final = (-600.0, 600.0)
"""By how many seconds a wrong clock of a broker is ahead."""

LONGEST: Final = 12.0
"""A fault lasts so many seconds at most: longer than verifiers and brokers may go without news."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that may go wrong with ``target``: ``inflict`` does it, waits, and puts it right."""

    name: str
    target: str
    inflict: Callable[[], Awaitable[None]]

    @property
    def kind(self) -> str:
        """What sort of thing the target is. Each befalls about as often, however many there are of it."""
        return self.target.rstrip("0123456789")


async def befall(faults: Sequence[Fault], journal: Journal, *, pause: float, over: asyncio.Event) -> None:
    """Let one fault after the other happen until all is ``over``, with ``pause`` seconds on average in between.

    Run it several times at once for faults at the same time. It returns when the last fault is over.
    """
    while not over.is_set():
        await asyncio.sleep(random.uniform(0, 2 * pause))
        free = [fault for fault in faults if fault.target not in _busy]
        if not free:
            continue
        kind = random.choice(sorted({fault.kind for fault in free}))
        fault, began = random.choice([fault for fault in free if fault.kind == kind]), time.monotonic()
        _busy.add(fault.target)
        try:
            await fault.inflict()
        finally:
            _busy.discard(fault.target)
        journal.write("fault", name=fault.name, target=fault.target, began=began, ended=time.monotonic())


_busy: Final[set[str]] = set()


def of_road(road: Road, target: str) -> list[Fault]:
    """Return the faults of a road."""

    def badly(harm: Callable[[], None]) -> Callable[[], Awaitable[None]]:
        async def inflict() -> None:
            harm()
            await a_while()
            road.mend()

        return inflict

    harms = {"cut": road.cut, "blocked": road.block, "slow": lambda: road.slow(random.uniform(0.01, 0.5))}
    return [Fault(name, target, badly(harm)) for name, harm in harms.items()]


def of_hand(hand: Hand) -> list[Fault]:
    """Return the faults of a process of the run."""

    async def killed() -> None:
        hand.kill()
        await a_while()
        hand.start()

    async def stopped() -> None:
        hand.signal(signal.SIGSTOP)
        await a_while()
        hand.signal(signal.SIGCONT)

    target = f"process {hand.name}"
    return [Fault("killed", target, killed), Fault("stopped", target, stopped)]


def of_member(member: Member) -> list[Fault]:
    """Return the faults of a broker."""
    target = f"broker {member.port}"

    async def killed() -> None:
        member.kill()
        await asyncio.to_thread(member.start)

    async def clock_wrong() -> None:
        member.set_clock(random.choice(SKEWS))
        await a_while()
        member.set_clock(0.0)

    async def stopped() -> None:
        member.signal(signal.SIGSTOP)
        await a_while()
        member.signal(signal.SIGCONT)

    async def worker_killed() -> None:
        with suppress(ProcessLookupError):
            os.kill(member.worker(), signal.SIGKILL)

    ways = {"killed": killed, "clock wrong": clock_wrong, "stopped": stopped}
    if member.has_workers:
        ways["worker killed"] = worker_killed
    return [Fault(name, target, way) for name, way in ways.items()]


async def a_while() -> None:
    """Wait: for a moment mostly, now and then until nobody may go without news any more."""
    await asyncio.sleep(LONGEST * random.random() ** 3)
