"""The supervisor with real processes that do little: it keeps them running, and ends with them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from broker.core.pacing import Timing
from broker.core.used_proofs import UsedProofs
from broker.timing import SYSTEM
from broker.workers.child import Command
from broker.workers.supervisor import GIVE_UP, Plan, Supervisor
from broker.workers.switchboard import Switchboard
from tests.support import worker_process
from tests.support.broker_app import KeptEvents

PATIENCE = 60.0


async def no_pause(seconds: float) -> None:
    """Let pauses pass in no time."""
    await asyncio.sleep(min(seconds, 0.01))


@dataclass
class Workshop:
    """A supervisor whose workers live as they are told in their turn, the last way for all that come later."""

    begun: Path
    ways: list[str]
    count: int = 2
    stop_seconds: float = 30.0
    events: KeptEvents = field(default_factory=KeptEvents)

    def supervisor(self) -> Supervisor:
        timing = Timing(wall=SYSTEM.wall, elapsed=SYSTEM.elapsed, sleep=no_pause, spread=lambda: 0.0)
        plan = Plan(count=self.count, command=self._command, inherits=(), stop_seconds=self.stop_seconds)
        return Supervisor(plan, Switchboard(UsedProofs(since=0.0), self.events), timing, self.events)

    def pids(self) -> list[int]:
        """Return the process ids of all workers that ever began."""
        return [int(line) for line in self.begun.read_text().split()] if self.begun.exists() else []

    def serving(self) -> list[int]:
        return [int(str(line["process"])) for line in self.events.of("worker.serving")]

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not holds():  # noqa: ASYNC110 - it is other processes that are waited for
                await asyncio.sleep(0.01)

    def _command(self, _place: int, _replaces: bool) -> Command:
        way = self.ways.pop(0) if len(self.ways) > 1 else self.ways[0]

        def of(channel: int) -> Sequence[str]:
            return (sys.executable, worker_process.__file__, str(channel), way, str(self.begun))

        return of


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file in which workers say that they began."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    return tmp_path / "begun"


def lives(pid: int) -> bool:
    """Whether a process is there."""
    return Path(f"/proc/{pid}").exists()


async def test_a_worker_that_dies_is_replaced_and_a_stop_ends_all(begun: Path) -> None:
    """The other one goes on meanwhile; the exit code says that all went well."""
    shop = Workshop(begun, ["serves"])
    supervisor = shop.supervisor()
    running = asyncio.ensure_future(supervisor.run())
    await shop.until(lambda: len(shop.serving()) == 2)
    first, second = shop.serving()
    os.kill(first, signal.SIGKILL)
    await shop.until(lambda: len(shop.serving()) == 3)
    assert lives(second)
    supervisor.stop()
    assert await asyncio.wait_for(running, PATIENCE) == 0
    assert not any(map(lives, shop.pids()))
    assert [line["code"] for line in shop.events.of("worker.died")] == [-signal.SIGKILL]


async def test_if_the_first_worker_cannot_serve_its_exit_code_is_the_answer(begun: Path) -> None:
    """Nothing is tried again: settings that are wrong are told once, as by a broker that is alone."""
    shop = Workshop(begun, ["fails"])
    assert await asyncio.wait_for(shop.supervisor().run(), PATIENCE) == 7
    assert len(shop.pids()) == 1


async def test_it_gives_up_when_no_worker_can_be_kept(begun: Path) -> None:
    """The one that served has died, and those that follow fail again and again before they serve."""
    shop = Workshop(begun, ["dies", "fails"], count=1)
    assert await asyncio.wait_for(shop.supervisor().run(), PATIENCE) == 7
    assert len(shop.pids()) == 1 + GIVE_UP


async def test_one_that_serves_keeps_the_others_being_tried(begun: Path) -> None:
    """However often a second worker fails, the first one goes on."""
    shop = Workshop(begun, ["serves", *["fails"] * (GIVE_UP + 2), "serves"])
    supervisor = shop.supervisor()
    running = asyncio.ensure_future(supervisor.run())
    await shop.until(lambda: len(shop.serving()) == 2)
    assert len(shop.events.of("worker.not_started")) == GIVE_UP + 2
    supervisor.stop()
    assert await asyncio.wait_for(running, PATIENCE) == 0


async def test_a_worker_that_does_not_end_is_ended(begun: Path) -> None:
    """A stop takes no longer than it may."""
    shop = Workshop(begun, ["serves", "stays"], stop_seconds=0.5)
    supervisor = shop.supervisor()
    running = asyncio.ensure_future(supervisor.run())
    await shop.until(lambda: len(shop.serving()) == 2)
    supervisor.stop()
    assert await asyncio.wait_for(running, PATIENCE) == 0
    assert not any(map(lives, shop.pids()))


async def test_rolling_replaces_all_but_not_by_workers_that_fail(begun: Path) -> None:
    """Each new one serves before the old one ends; when a new one cannot serve, the old ones stay."""
    shop = Workshop(begun, ["serves", "serves", "serves", "serves", "fails"])
    supervisor = shop.supervisor()
    running = asyncio.ensure_future(supervisor.run())
    await shop.until(lambda: len(shop.serving()) == 2)
    supervisor.roll()
    await shop.until(lambda: shop.events.of("workers.replaced"))
    assert [lives(pid) for pid in shop.serving()] == [False, False, True, True]
    supervisor.roll()
    await shop.until(lambda: shop.events.of("workers.not_replaced"))
    assert [lives(pid) for pid in shop.serving()] == [False, False, True, True]
    assert shop.events.of("worker.died") == []
    supervisor.stop()
    assert await asyncio.wait_for(running, PATIENCE) == 0


async def test_a_stop_while_the_first_worker_begins(begun: Path) -> None:
    """It is no failure, and leaves nothing behind."""
    shop = Workshop(begun, ["serves"])
    supervisor = shop.supervisor()
    running = asyncio.ensure_future(supervisor.run())
    supervisor.stop()
    assert await asyncio.wait_for(running, PATIENCE) == 0
    assert not any(map(lives, shop.pids()))
