from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from broker.anchors.patient_thread import MOST_WAITING, PatientThread
from broker.core.errors import AnchorFailed, Code


async def test_calls_run_one_after_the_other() -> None:
    """In the order in which they came, each with its own result or failure."""
    thread = PatientThread("test", seconds=30)
    running: list[int] = []

    def work(number: int) -> int:
        running.append(number)
        if number == 2:
            raise OSError("no")
        return number

    results = await asyncio.gather(*(thread.run(partial(work, n)) for n in range(4)), return_exceptions=True)
    thread.close()
    assert running == [0, 1, 2, 3]
    assert [type(result) for result in results] == [int, int, OSError, int]


async def test_a_call_that_hangs_is_given_up() -> None:
    """Whoever waits is told; those behind it are told, too, and do not run later; no more than a few may wait."""
    thread, release, ran = PatientThread("test", seconds=0.05), threading.Event(), list[int]()
    results = await asyncio.gather(
        thread.run(release.wait),
        *(thread.run(partial(ran.append, n)) for n in range(MOST_WAITING * 2)),
        return_exceptions=True,
    )
    assert {getattr(result, "code", None) for result in results} == {Code.ANCHOR_UNAVAILABLE}
    thread.close()
    release.set()
    await asyncio.sleep(0)
    thread = PatientThread("test", seconds=30)
    assert await thread.run(lambda: "works") == "works"
    thread.close()
    assert ran == []


async def test_a_caller_that_goes_away_leaves_the_thread_in_order() -> None:
    """Cancelling costs nobody else anything."""
    thread, release = PatientThread("test", seconds=30), threading.Event()
    waiting = asyncio.ensure_future(thread.run(release.wait))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    release.set()
    assert await thread.run(lambda: 7) == 7
    thread.close()


def test_a_process_ends_although_a_call_hangs() -> None:
    """As it must when a file system is gone for good."""
    program = """
import asyncio, threading
from broker.anchors.patient_thread import PatientThread
from broker.core.errors import AnchorFailed

async def main():
    thread = PatientThread("test", seconds=0.1)
    try:
        await thread.run(threading.Event().wait)
    except AnchorFailed:
        print("given up")
    thread.close()

asyncio.run(main())
"""
    folder = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "given up\n"), done.stderr


async def test_the_failure_is_an_anchors() -> None:
    """Callers know no other."""
    thread = PatientThread("test", seconds=0.01)
    release = threading.Event()
    with pytest.raises(AnchorFailed):
        await thread.run(release.wait)
    release.set()
    thread.close()
