"""A process of a family that judges: reads ``AGENT EPOCH`` a line, says whether a credential of that agent is alive.

Meanwhile it commits tokens, so that its writer and its event loop have other things to do.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from broker.core.errors import EpochMoved
from broker.ledger.sharing.family import Family
from tests.support.ledgers import Bench, opened


async def judge(bench: Bench) -> None:
    """Answer until the input ends."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        agent, epoch = line.split()
        await bench.ledger.freshness.ensure()
        killer = bench.revocations.rules.killer({("agent", agent)}, int(epoch))
        os.write(1, b"alive\n" if killer is None else b"dead\n")


async def issue(bench: Bench) -> None:
    """Issue tokens without end."""
    number = 0
    while True:
        number += 1
        try:
            await bench.issue(f"tok_{os.getpid()}_{number}")
        except EpochMoved:
            continue


async def main(path: Path, family: Family) -> None:
    """Judge and work until the input ends."""
    async with opened(path, family=family) as bench:
        working = asyncio.create_task(issue(bench))
        os.write(1, b"ready\n")
        await judge(bench)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Family(int(sys.argv[2]), int(sys.argv[3]))))
