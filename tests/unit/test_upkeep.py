"""Periodic work: none of it stops another, and a failure that lasts is told once."""

from __future__ import annotations

import asyncio

from broker.core.errors import Code, Unavailable
from broker.upkeep import Job, Upkeep
from tests.support.broker_app import KeptEvents


async def test_a_failure_that_lasts_is_told_once() -> None:
    """And again after it was over, or when it is another one; a defect is told each time."""
    corrupt, full = Unavailable(Code.LEDGER_CORRUPT, "x"), Unavailable(Code.LEDGER_UNAVAILABLE, "x")
    outcomes = iter([corrupt, corrupt, full, full, None, full, ValueError(), ValueError()])
    over, beside = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        outcome = next(outcomes, over)
        if outcome is over:
            over.set()
        elif isinstance(outcome, Exception):
            raise outcome

    async def other() -> None:
        beside.set()

    events = KeptEvents()
    upkeep = Upkeep((Job("work", 0.001, work), Job("other", 0.001, other)), events)
    upkeep.start()
    await asyncio.wait_for(asyncio.gather(over.wait(), beside.wait()), 30)
    await upkeep.close()
    told = [line.get("code") for line in events.of("upkeep.failed")]
    assert told == ["ledger_corrupt", "ledger_unavailable", "ledger_unavailable", None, None]
