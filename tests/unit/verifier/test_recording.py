"""A view that was kept makes the next start faster, bars older statements, and is never believed without its proof."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from broker.core.errors import Code
from broker.verifier import Verifier
from tests.support.fake_broker import JWKS, SNAPSHOT, SigningKey, answering
from tests.support.feeding_broker import STREAM, FeedingBroker
from tests.support.refusals import refusal
from tests.support.until import until
from tests.support.virtual_time import VirtualTime

AUDIENCE = "https://tickets.internal"
Make = Callable[[], Verifier]


@pytest.fixture
async def broker(time: VirtualTime) -> AsyncIterator[FeedingBroker]:
    """A broker with a stream."""
    fake = FeedingBroker(lambda: time.wall)
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the view is kept."""
    return tmp_path / "view.json"


@pytest.fixture
def make(
    broker: FeedingBroker, time: VirtualTime, own_token: Callable[[], Awaitable[str]], path: Path
) -> Callable[[], Verifier]:
    """Make one process after the other, with the same file."""
    return lambda: Verifier(broker.url, AUDIENCE, credentials=own_token, keep=path, timing=time.timing())


async def keep(broker: FeedingBroker, make: Make, time: VirtualTime) -> None:
    """Let a process follow two rules and a heartbeat, and end."""
    async with make() as verifier:
        await until(lambda: bool(broker.subscribers))
        await broker.tell_rules([broker.make(agent="triage"), broker.make(agent="other")])
        time.advance(1)
        await broker.heartbeat()
        await until(lambda: verifier.view_age() == 0)


def go_silent(broker: FeedingBroker) -> None:
    """Rules cannot be had any more, only keys."""
    broker.faults |= {SNAPSHOT: answering(503), STREAM: answering(503)}


async def started(verifier: Verifier) -> Verifier:
    """Start, without waiting for a view that does not come, and let it read what was kept."""
    await verifier.start(wait=0.3)
    return verifier


async def test_a_process_that_starts_again_answers_without_the_rules_endpoint(
    broker: FeedingBroker, make: Make, time: VirtualTime, path: Path
) -> None:
    """With all rules, as long as what was kept is young; the file is for its owner alone."""
    old = broker.mint()
    await keep(broker, make, time)
    assert path.stat().st_mode & 0o777 == 0o600
    go_silent(broker)
    verifier = await started(make())
    assert verifier.epoch == 2
    assert await refusal(verifier, broker.mint()) is None
    assert await refusal(verifier, old) is Code.TOKEN_REVOKED
    time.advance(11)
    assert await refusal(verifier, broker.mint()) is Code.VIEW_STALE
    assert await refusal(verifier, old) is Code.TOKEN_REVOKED
    await verifier.close()


async def test_what_is_old_only_makes_refusals_exact(broker: FeedingBroker, make: Make, time: VirtualTime) -> None:
    """However long it lay there, it brings nothing to life."""
    await keep(broker, make, time)
    time.advance(3_600)
    go_silent(broker)
    dead, good = broker.mint(epoch=0), broker.mint()
    verifier = await started(make())
    assert await refusal(verifier, good) is Code.VIEW_STALE
    assert await refusal(verifier, dead) is Code.TOKEN_REVOKED
    await verifier.close()


async def test_the_epoch_that_was_seen_bars_older_rules_after_a_restart(
    broker: FeedingBroker, make: Make, time: VirtualTime
) -> None:
    """Whoever stands in between cannot use the restart to have an older snapshot taken."""
    token, older = broker.mint(), broker.snapshot()
    await keep(broker, make, time)
    time.advance(2)
    broker.faults |= {STREAM: answering(404), SNAPSHOT: answering(200, older)}
    verifier = await started(make())
    assert verifier.epoch == 2
    assert await refusal(verifier, token) is Code.TOKEN_REVOKED
    await until(lambda: "rolled_back" in verifier.following().refused)
    assert verifier.epoch == 2
    await verifier.close()


async def test_keys_come_from_the_broker_and_never_from_the_file(
    broker: FeedingBroker, make: Make, time: VirtualTime, path: Path
) -> None:
    """Whoever can write the file cannot make up rules or tokens; without keys, nothing of it counts."""
    stranger = SigningKey()
    forged = [("snapshot", broker.snapshot(key=stranger, epoch=99)), ("heartbeat", broker.heartbeat_token(epoch=99))]
    path.write_text(json.dumps(forged))
    go_silent(broker)
    verifier = await started(make())
    assert verifier.epoch is None
    assert await refusal(verifier, broker.mint(key=stranger)) is Code.TOKEN_INVALID
    assert await refusal(verifier, broker.mint()) is Code.VIEW_STALE
    await verifier.close()
    await keep_nothing(broker, make)


async def keep_nothing(broker: FeedingBroker, make: Make) -> None:
    """A process that could not take what was kept goes on with the broker as if there had been nothing."""
    broker.faults.clear()
    async with make() as verifier:
        assert await refusal(verifier, broker.mint()) is None


async def test_without_keys_what_was_kept_waits_for_them(broker: FeedingBroker, make: Make, time: VirtualTime) -> None:
    """It is read before anything else is believed, as soon as there are keys."""
    token, older = broker.mint(), broker.snapshot()
    await keep(broker, make, time)
    broker.faults |= {JWKS: answering(503), STREAM: answering(404), SNAPSHOT: answering(200, older)}
    verifier = await started(make())
    assert verifier.epoch is None
    del broker.faults[JWKS]
    while verifier.epoch is None:
        time.advance(0.2)
        await asyncio.sleep(0.001)
    assert verifier.epoch == 2
    assert await refusal(verifier, token) is Code.TOKEN_REVOKED
    await verifier.close()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[[1, 2]]",
        b'[["weather", "x"]]',
        b'[["snapshot", "x.y.z"]]',
        b'[["snapshot"',
        b'[["snapshot", "\xff"]]',
        b'[["snapshot", "\\ud800"]]',
        json.dumps([["rule", "x.y.z"]] * 1_000).encode(),
        b"\xff" * 100,
        b"[" * 100_000,
        b" " * (33 * 1024 * 1024),
    ],
)
async def test_a_file_that_is_no_good_is_no_worse_than_none(
    broker: FeedingBroker, make: Make, path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and replaced in time."""
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING, "broker.verifier"):
        async with make() as verifier:
            assert await refusal(verifier, broker.mint()) is None
    assert "kept" in caplog.text
    assert json.loads(path.read_bytes())[0][0] == "snapshot"


async def test_a_file_of_the_future_is_not_believed(
    broker: FeedingBroker, make: Make, time: VirtualTime, path: Path
) -> None:
    """A clock that was set back since makes what was kept look too new: it cannot be young by that."""
    await keep(broker, make, time)
    go_silent(broker)
    now = time.wall
    time.wall -= 600
    verifier = await started(make())
    assert verifier.epoch is None
    time.wall = now
    await verifier.close()


async def test_a_disk_that_fails_harms_nothing(
    broker: FeedingBroker, time: VirtualTime, own_token: Callable[[], Awaitable[str]], tmp_path: Path
) -> None:
    """Not while verifying, and not while closing."""
    missing = tmp_path / "no such folder" / "view.json"
    async with Verifier(broker.url, AUDIENCE, credentials=own_token, keep=missing, timing=time.timing()) as verifier:
        assert await refusal(verifier, broker.mint()) is None


async def test_what_is_kept_is_bounded(broker: FeedingBroker, make: Make, time: VirtualTime, path: Path) -> None:
    """After some hundred rules, a new snapshot is taken in place of the old one and all of them."""
    async with make() as verifier:
        await until(lambda: bool(broker.subscribers))
        for number in range(600):
            await broker.tell_rules([broker.make(token=f"tok_other_{number}")])
        time.advance(1)
        while verifier.epoch != 600:
            time.advance(0.2)
            await asyncio.sleep(0.001)
    kept = json.loads(path.read_bytes())
    assert kept[0][0] == "snapshot"
    assert len(kept) <= 260
