"""What becomes of reads when the ledger is closed, or nobody waits for them any more."""

from __future__ import annotations

import asyncio
import threading

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import StaticPool

from broker.core.errors import Code, Unavailable
from broker.ledger.reading.reader import Reader


async def test_what_nobody_waits_for_is_not_begun() -> None:
    """Counts that came too late for their answers would hold up those that are waited for."""
    engine = create_engine("sqlite://", connect_args={"check_same_thread": False}, poolclass=StaticPool)
    reader, begun, go_on, read = Reader(engine), threading.Event(), threading.Event(), list[str]()

    def held(connection: object) -> None:
        begun.set()
        go_on.wait()

    running = asyncio.create_task(reader.read(held, slow=True))
    await asyncio.to_thread(begun.wait)
    given_up, waited_for = (
        asyncio.create_task(reader.read(lambda connection, name=name: read.append(name), slow=True))  # type: ignore[misc]
        for name in ("given up", "waited for")
    )
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(running, waited_for)
    assert read == ["waited for"]
    await reader.close()


async def test_only_what_has_begun_is_waited_for() -> None:
    """A queue of slow reads would hold up the stop for as long as all of them take."""
    engine = create_engine("sqlite://", connect_args={"check_same_thread": False}, poolclass=StaticPool)
    reader, begun, go_on = Reader(engine), threading.Event(), threading.Event()

    def held(connection: object) -> str:
        begun.set()
        go_on.wait()
        return "done"

    running = asyncio.create_task(reader.read(held, slow=True))
    await asyncio.to_thread(begun.wait)
    queued = asyncio.create_task(reader.read(lambda connection: connection.scalar(text("SELECT 1")), slow=True))
    await asyncio.sleep(0)
    closing = asyncio.create_task(reader.close())
    await asyncio.sleep(0)
    go_on.set()
    assert await running == "done"
    with pytest.raises(Unavailable) as refused:
        await queued
    await closing
    assert refused.value.code is Code.STOPPING
