"""``python -m tests.chaos``: brokers, verifiers and clients under load, revocations, faults, and then the proof.

Without ``--faults`` it measures propagation. It ends with 0 only if the checker finds nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from broker.verifier.verifier import LEEWAY, MAX_STALENESS
from tests.chaos import check_law_2
from tests.chaos.clients import work
from tests.chaos.crew import Hand
from tests.chaos.faults import Fault, befall, of_hand, of_member, of_road
from tests.chaos.ground import Ground
from tests.chaos.journal import Journal, Tail
from tests.chaos.measures import quantiles, times
from tests.chaos.revoking import NAME, revoke
from tests.chaos.verifying import verify
from tests.support.road import Road

WARM_SECONDS: Final = 2.0


def main() -> int:
    """Run once, print the figures, and judge."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=1, help="processes that share one SQLite file")
    parser.add_argument("--verifiers", type=int, default=10, help="verifiers in processes of their own")
    parser.add_argument("--clients", type=int, default=3, help="clients that get and use tokens")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between two rounds of each of those")
    parser.add_argument("--every", type=float, default=0.5, help="seconds between two revocations")
    parser.add_argument("--revocations", type=int, help="how many; by default as many as there is time for")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long, unless that many are done before")
    parser.add_argument("--faults", type=int, default=0, metavar="N", help="so many faults at a time")
    parser.add_argument("--calm", type=float, default=1.0, help="seconds between two faults")
    parser.add_argument("--folder", type=Path, help="where to leave everything; by default it is removed")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="broker-chaos-") as temporary:
        folder = Path(temporary) if asked.folder is None else asked.folder
        (folder / "journals").mkdir(parents=True)
        clients = tuple(f"client-{number}" for number in range(1, asked.clients + 1))
        ground = Ground(folder, clients, asked.workers)
        try:
            ground.start()
            asyncio.run(Run(ground, asked).run())
            evidence = ground.evidence()
        finally:
            ground.end()
        _print_figures(folder / "journals")
        return _judge(folder / "journals", evidence, ground.within)


class Run:
    """One run over a ground that has been started."""

    def __init__(self, ground: Ground, asked: argparse.Namespace) -> None:
        self._ground, self._asked = ground, asked
        self._faults: list[Fault] = [fault for member in ground.members for fault in of_member(member)]
        self._hands: list[Hand] = []
        self._ports = tuple(member.port for member in ground.members)

    async def run(self) -> None:
        """Let everybody work, until the time is over or the revocations are done."""
        asked, clients = self._asked, self._ground.clients
        async with AsyncExitStack() as stack:
            try:
                for name in clients:
                    roads = tuple([(await self._road(stack, name, [port])).port for port in self._ports])
                    self._begin(name, work, self._ground.place(roads), name, pause=asked.pause)
                for number in range(1, asked.verifiers + 1):
                    name = f"verifier-{number}"
                    road = await self._road(stack, name, self._ports)
                    hand = self._begin(
                        name,
                        verify,
                        self._ground.place(self._ports),
                        name,
                        clients,
                        through=road.port,
                        pause=asked.pause,
                    )
                    self._faults += of_hand(hand)
                await asyncio.sleep(WARM_SECONDS)
                until = time.monotonic() + 60 * asked.minutes
                revoker = self._begin(
                    NAME, revoke, self._ground.place(self._ports), clients, pause=asked.every, count=asked.revocations
                )
                await self._suffer(until)
                await asyncio.to_thread(revoker.process.join, max(0.0, until - time.monotonic()))
            finally:
                for hand in self._hands:
                    hand.kill()
        await asyncio.to_thread(self._recover)

    def _begin(self, name: str, does: Callable[..., None], *arguments: object, **settings: object) -> Hand:
        hand = Hand(name, does, arguments, settings)
        hand.start()
        self._hands.append(hand)
        return hand

    async def _road(self, stack: AsyncExitStack, name: str, ends: Sequence[int]) -> Road:
        road = await stack.enter_async_context(Road(ends))
        self._faults += of_road(road, f"road of {name}")
        return road

    async def _suffer(self, until: float) -> None:
        journal = Journal(self._ground.folder / "journals", "faults")
        faults = [befall(self._faults, journal, pause=self._asked.calm, until=until) for _ in range(self._asked.faults)]
        await asyncio.gather(*faults)

    def _recover(self) -> None:
        """Give brokers that were killed with a wrong clock the right one, for the evidence."""
        if self._asked.faults:
            for member in self._ground.members:
                member.kill()
                member.start()


def _print_figures(journals: Path) -> None:
    took = times(journals)
    seen = [one for one in took if one.refused is not None]
    faults = Counter(f"{line['target'].split()[0]} {line['name']}" for line in Tail(journals / "faults.jsonl").new())
    print(f"revocations: {len(took)}, places each: {sum(one.places for one in took) / max(1, len(took)):.1f}")
    print(f"call to answer, p50 / p99 / max:        {quantiles(one.answered for one in took)}")
    print(f"call to last refusal, p50 / p99 / max:  {quantiles(one.refused for one in seen if one.refused)}")
    print(f"answers that said applied: {sum(one.applied for one in took)}")
    if faults:
        print(f"faults: {json.dumps(faults, sort_keys=True)}")


def _judge(journals: Path, evidence: Sequence[str], within: float) -> int:
    bounds = ["--brokers-within", str(within), "--verifiers-within", str(MAX_STALENESS + LEEWAY)]
    command = [sys.executable, str(Path(check_law_2.__file__)), str(journals), *evidence, *bounds]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
