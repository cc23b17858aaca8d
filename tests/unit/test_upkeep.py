"""Periodic work: none of it stops another, and a failure that lasts is told once."""

from __future__ import annotations

import asyncio
from collections import Counter

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
    upkeep = Upkeep((Job("work", 0.001, work), Job("other", 0.001, other)), events, leads=lambda: True)
    upkeep.start()
    await asyncio.wait_for(asyncio.gather(over.wait(), beside.wait()), 30)
    await upkeep.close()
    told = [line.get("code") for line in events.of("upkeep.failed")]
    assert told == ["ledger_corrupt", "ledger_unavailable", "ledger_unavailable", None, None]


async def test_what_only_one_process_may_do_waits_until_it_leads() -> None:
    """Other jobs go on meanwhile; it begins as soon as this process leads, and stops when it does not any more."""
    leads, done = False, Counter[str]()
    turned = asyncio.Event()

    def job(name: str, *, alone: bool) -> Job:
        async def work() -> None:
            done[name] += 1
            turned.set()

        return Job(name, 0.001, work, alone=alone)

    async def times(name: str, count: int) -> None:
        async with asyncio.timeout(30):
            while done[name] < count:
                turned.clear()
                await turned.wait()

    upkeep = Upkeep((job("one", alone=True), job("each", alone=False)), KeptEvents(), leads=lambda: leads)
    upkeep.start()
    await times("each", 5)
    assert done["one"] == 0
    leads = True
    await times("one", 3)
    leads = False
    before = done["one"]
    await times("each", done["each"] + 5)
    await upkeep.close()
    assert done["one"] <= before + 1
