"""A process to be killed: commits tokens and rules to a ledger without end, and prints what was acknowledged."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from broker.core.change import RateWithin, Unused
from broker.core.errors import EpochMoved
from broker.core.selector import Selector
from tests.support.ledgers import NOW, Bench, digest, opened

ISSUERS = 16


async def issue(bench: Bench, worker: int) -> None:
    """Issue tokens one after the other; print each only when it is acknowledged, as a broker releases it then."""
    number = 0
    while True:
        number += 1
        ref = f"tok_{os.getpid()}_{worker}_{number}"
        guards = (Unused(digest(ref), int(NOW) + 60, "assertion"), RateWithin(f"agent/{worker}", 10**9, NOW))
        try:
            await bench.issue(ref, *guards)
        except EpochMoved:
            continue
        os.write(1, f"{ref}\n".encode())


async def revoke(bench: Bench) -> None:
    """Revoke now and then."""
    while True:
        await asyncio.sleep(0.02)
        rule = await bench.revoke(Selector(agent=f"agent-{bench.epoch}"), f"rule_{os.getpid()}_{bench.epoch}")
        os.write(1, f"{rule.id}\n".encode())


async def main(path: Path) -> None:
    """Work until killed."""
    async with opened(path, sign=lambda size, root: f"{size} {root.hex()}") as bench:
        os.write(1, b"ready\n")
        await asyncio.gather(revoke(bench), *(issue(bench, worker) for worker in range(ISSUERS)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
