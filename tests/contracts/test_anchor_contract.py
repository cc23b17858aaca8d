"""What the port ``Anchor`` promises, of every implementation, and of the stand-in that other tests use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.anchors.file import FileAnchor
from broker.anchors.s3 import LockedBucket, S3Anchor
from broker.anchors.syslog import SyslogAnchor
from broker.anchors.witness import WitnessAnchor
from broker.backends.aws_session import AwsAccount
from broker.core.errors import AnchorFailed
from broker.delivery.syslog import syslog_target
from broker.outbound import Destination, Outbound
from broker.ports import Anchor, SignedHead
from tests.support.anchors import GrowingLog, KeptAnchor
from tests.support.fakes import FakeClock
from tests.support.moto_aws import REGION, client, environment, own_token
from tests.support.syslog_server import SyslogServer
from tests.support.witness import Witness

NOW = datetime.now(UTC).timestamp()


@dataclass(frozen=True)
class Case:
    """An anchor for one log; each call of ``make`` is a process that comes to the same place."""

    log: GrowingLog
    make: Callable[[], Anchor]


@asynccontextmanager
async def _file(request: pytest.FixtureRequest, folder: Path, log: GrowingLog) -> AsyncIterator[Case]:
    yield Case(log, lambda: FileAnchor(folder / "anchor", clock=FakeClock(NOW), timeout_seconds=30))


@asynccontextmanager
async def _s3(request: pytest.FixtureRequest, folder: Path, log: GrowingLog) -> AsyncIterator[Case]:
    moto: str = request.getfixturevalue("moto")
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    environment(monkeypatch)
    bucket = f"evidence-{folder.name.replace('_', '-').lower()[:40]}"
    with client("s3", moto) as s3:
        where = {"CreateBucketConfiguration": {"LocationConstraint": REGION}}
        s3.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True, **where)
    place = LockedBucket(bucket=bucket, prefix="log/", mode="COMPLIANCE", retain_days=1)
    account = AwsAccount(region=REGION, endpoint=moto, concurrency=2)
    yield Case(log, lambda: S3Anchor("anchors.s3", place, account, clock=FakeClock(NOW), own_token=own_token))


@asynccontextmanager
async def _witness(request: pytest.FixtureRequest, folder: Path, log: GrowingLog) -> AsyncIterator[Case]:
    local = Destination(allow_http=True, allow_private=True)
    async with Witness(log.vkey, clock=lambda: NOW) as witness, Outbound() as outbound:
        yield Case(log, lambda: WitnessAnchor(witness.url, witness.vkey, outbound, local, clock=FakeClock(NOW)))


@asynccontextmanager
async def _kept(request: pytest.FixtureRequest, folder: Path, log: GrowingLog) -> AsyncIterator[Case]:
    notes: list[str] = []
    yield Case(log, lambda: KeptAnchor(notes))


@asynccontextmanager
async def _syslog(request: pytest.FixtureRequest, folder: Path, log: GrowingLog) -> AsyncIterator[Case]:
    async with SyslogServer() as server:
        yield Case(log, lambda: SyslogAnchor(syslog_target(server.url), clock=FakeClock(NOW)))


CASES = {"file": _file, "syslog": _syslog, "s3": _s3, "witness": _witness, "stand-in": _kept}


@pytest.fixture(params=CASES)
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Case]:
    """Each implementation in turn."""
    async with CASES[request.param](request, tmp_path, GrowingLog()) as made:
        yield made


async def _place(case: Case, anchor: Anchor, checkpoint: SignedHead) -> str:
    return (await anchor.place(checkpoint, case.log.prove(checkpoint.size))).receipt


async def _holds(anchor: Anchor, checkpoint: SignedHead | None) -> None:
    """Assert what an anchor says that it holds, if it says anything."""
    expected = None if checkpoint is None or not anchor.remembers else checkpoint.note
    assert await anchor.latest() == expected


async def test_the_youngest_is_held(case: Case) -> None:
    """Nothing at first; then what was placed last, for this process and for the next."""
    anchor = case.make()
    await _holds(anchor, None)
    for entries in (1, 1, 30):
        checkpoint = case.log.grow(entries)
        assert await _place(case, anchor, checkpoint)
        await _holds(anchor, checkpoint)
    await anchor.close()
    later = case.make()
    await _holds(later, case.log.signed_checkpoint())
    await _place(case, later, case.log.grow(5))
    await _holds(later, case.log.signed_checkpoint())
    await later.close()


async def test_placing_twice_is_harmless(case: Case) -> None:
    """In one process, or after the one that placed it has died; what comes next is placed as ever."""
    for anchor in (case.make(), case.make()):
        checkpoint = case.log.signed_checkpoint() or case.log.grow(3)
        for _ in range(2):
            await _place(case, anchor, checkpoint)
            await _holds(anchor, checkpoint)
        await anchor.close()
    last = case.make()
    await _place(case, last, case.log.grow())
    await _holds(last, case.log.signed_checkpoint())
    await last.close()


async def test_being_cancelled_at_any_moment(case: Case) -> None:
    """Whether it was placed by then or not, the next attempt succeeds."""
    anchor = case.make()
    for turns in range(12):
        checkpoint = case.log.grow()
        placing = asyncio.ensure_future(_place(case, anchor, checkpoint))
        for _ in range(turns):
            await asyncio.sleep(0)
        placing.cancel()
        await asyncio.gather(placing, return_exceptions=True)
        await _place(case, anchor, checkpoint)
        await _holds(anchor, checkpoint)
    await anchor.close()


async def test_several_calls_at_once(case: Case) -> None:
    """Looking while something is placed is no harm, and says what is there or was."""
    anchor = case.make()
    first = case.log.grow()
    await _place(case, anchor, first)
    second = case.log.grow()
    _, *seen = await asyncio.gather(_place(case, anchor, second), *(anchor.latest() for _ in range(3)))
    assert set(seen) <= {first.note, second.note, None}
    await _holds(anchor, second)
    await anchor.close()


async def test_closing(case: Case) -> None:
    """Twice is as good as once, also for one that was never used; a call after it fails as calls do, or works."""
    unused = case.make()
    await unused.close()
    await unused.close()
    anchor = case.make()
    await _place(case, anchor, case.log.grow())
    await anchor.close()
    await anchor.close()
    (answer,) = await asyncio.wait_for(asyncio.gather(anchor.latest(), return_exceptions=True), 20)
    assert not isinstance(answer, BaseException) or isinstance(answer, AnchorFailed)
