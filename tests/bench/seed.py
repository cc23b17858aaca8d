"""Fills a ledger with live tokens through its own door: ``python -m tests.bench.seed LEDGER COUNT``.

The entries are what issuing writes, without the signatures: what a revocation costs depends on the ledger alone.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from broker.clock import SystemClock
from broker.core.change import Change, EpochIs
from broker.core.entry import Entry, Kind, entry
from broker.ids import RandomIds
from broker.ledger.store import SqlLedger
from broker.ports import Revocations

WAVE = 2048
TTL = 3600


def issued(ids: RandomIds, now: float, epoch: int) -> Entry:
    """Return the entry of a token that lives for an hour."""
    return entry(
        Kind.TOKEN_ISSUED,
        now,
        ref=ids.new("tok"),
        agent="prod-cluster/support/triage",
        issuer="prod-cluster",
        subject="system:serviceaccount:support:triage",
        role="triage",
        tier="read",
        task=ids.new("task"),
        audience="https://tickets.internal",
        scope="tickets:read",
        epoch=epoch,
        expires_at=int(now) + TTL,
        key="Zk3" * 14,
        allowed_by="roles.triage.allow[0]",
        policy="0" * 64,
        method="platform",
        assertion="0" * 64,
        address="127.0.0.1",
        request=ids.new("req"),
        trace="0" * 32,
    )


async def seed(path: Path, count: int) -> None:
    """Add ``count`` live tokens to the ledger at ``path``; no broker may be running on it."""
    revocations, ids, clock = Revocations(), RandomIds(), SystemClock()
    ledger = await SqlLedger.open(path, revocations, clock=clock)
    epoch = revocations.rules.epoch
    try:
        for start in range(0, count, WAVE):
            now = clock.now()
            wave = [Change(issued(ids, now, epoch), (EpochIs(epoch),)) for _ in range(min(WAVE, count - start))]
            await asyncio.gather(*map(ledger.commit, wave))
    finally:
        await ledger.close()


if __name__ == "__main__":
    began = time.perf_counter()
    asyncio.run(seed(Path(sys.argv[1]), int(sys.argv[2])))
    sys.stdout.write(f"{int(sys.argv[2]) / (time.perf_counter() - began):,.0f} entries/s\n")
