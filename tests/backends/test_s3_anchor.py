"""An anchor in a bucket with object lock, against moto's S3."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from broker.anchors.s3 import LockedBucket, S3Anchor, key_of
from broker.backends.aws_session import AwsAccount
from broker.core.errors import AnchorFailed, Code
from tests.support.anchors import GrowingLog
from tests.support.fakes import FakeClock
from tests.support.moto_aws import REGION, AwsClient, client, environment, own_token, reset

BUCKET = "evidence"
PLAIN = "no-lock"


@pytest.fixture
def s3(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsClient]:
    """An account with a bucket that locks, and one that does not."""
    reset(moto)
    environment(monkeypatch)
    where = {"CreateBucketConfiguration": {"LocationConstraint": REGION}}
    with client("s3", moto) as made:
        made.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True, **where)
        made.create_bucket(Bucket=PLAIN, **where)
        yield made


@pytest.fixture
def log() -> GrowingLog:
    """A ledger's tree."""
    return GrowingLog()


def anchored(url: str, *, mode: str = "COMPLIANCE", bucket: str = BUCKET, prefix: str = "broker/") -> S3Anchor:
    """Return an anchor in a bucket of this server."""
    place = LockedBucket(bucket=bucket, prefix=prefix, mode=mode, retain_days=30)
    account = AwsAccount(region=REGION, endpoint=url, concurrency=2, timeout_seconds=10)
    return S3Anchor("anchors.s3", place, account, clock=FakeClock(datetime.now(UTC).timestamp()), own_token=own_token)


@pytest.fixture
async def anchor(s3: AwsClient, moto: str) -> AsyncIterator[S3Anchor]:
    """An anchor in the bucket."""
    made = anchored(moto)
    yield made
    await made.close()


async def put(anchor: S3Anchor, log: GrowingLog, entries: int = 1) -> str:
    """Place one more checkpoint; return its receipt."""
    checkpoint = log.grow(entries)
    return (await anchor.place(checkpoint, log.prove(checkpoint.size))).receipt


async def test_an_object_for_each_checkpoint(anchor: S3Anchor, s3: AwsClient, log: GrowingLog) -> None:
    """The note as it was signed; the youngest is the first in the order of the keys, whatever the sizes are."""
    assert await anchor.latest() is None
    placed = {}
    for entries in (1, 8, 1, 90, 1000):
        await put(anchor, log, entries)
        checkpoint = log.signed_checkpoint()
        assert checkpoint is not None
        placed[checkpoint.size] = checkpoint.note
        assert await anchor.latest() == checkpoint.note
    listed = [found["Key"] for found in s3.list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert [int(key.rpartition("-")[2]) for key in listed] == sorted(placed, reverse=True)
    for key in listed:
        body = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode()
        assert body == placed[int(key.rpartition("-")[2])]


@pytest.mark.parametrize("mode", ["COMPLIANCE", "GOVERNANCE"])
async def test_each_object_is_locked(s3: AwsClient, moto: str, log: GrowingLog, mode: str) -> None:
    """In the mode and for the days that were asked for; the receipt says so; no version of it can be removed."""
    anchor = anchored(moto, mode=mode)
    receipt = await put(anchor, log)
    key = key_of("broker/", 1)
    found = s3.head_object(Bucket=BUCKET, Key=key)
    until = found["ObjectLockRetainUntilDate"]
    assert found["ObjectLockMode"] == mode
    assert until > datetime.now(UTC) + timedelta(days=29)
    assert receipt == f"s3://{BUCKET}/{key}: {mode} until {until:%Y-%m-%dT%H:%M:%SZ}"
    version = s3.list_object_versions(Bucket=BUCKET)["Versions"][0]["VersionId"]
    with pytest.raises(ClientError):
        s3.delete_object(Bucket=BUCKET, Key=key, VersionId=version)
    await anchor.close()


async def test_placing_again_is_harmless(anchor: S3Anchor, s3: AwsClient, log: GrowingLog) -> None:
    """There is still one version, and the receipt is that of the lock that is there."""
    first = await put(anchor, log)
    checkpoint = log.signed_checkpoint()
    assert checkpoint is not None
    assert (await anchor.place(checkpoint, log.prove(1))).receipt == first
    assert len(s3.list_object_versions(Bucket=BUCKET)["Versions"]) == 1


async def test_nothing_is_overwritten(anchor: S3Anchor, s3: AwsClient, log: GrowingLog) -> None:
    """Another checkpoint of the same size is a contradiction, and stays as it is."""
    await put(anchor, log, 3)
    forged = log.fork(1)
    with pytest.raises(AnchorFailed) as failed:
        await put(anchor, forged, 2)
    assert failed.value.code is Code.ANCHOR_INCONSISTENT
    body = s3.get_object(Bucket=BUCKET, Key=key_of("broker/", 3))["Body"].read().decode()
    checkpoint = log.signed_checkpoint()
    assert checkpoint is not None
    assert body == checkpoint.note


async def test_a_bucket_that_does_not_lock(s3: AwsClient, moto: str, log: GrowingLog) -> None:
    """Whether it refuses, or takes the object and forgets the lock: that is no anchor."""
    anchor = anchored(moto, bucket=PLAIN)
    with pytest.raises(AnchorFailed) as failed:
        await put(anchor, log)
    assert failed.value.code is Code.ANCHOR_REFUSED
    await anchor.close()


async def test_a_lock_that_is_too_short_or_too_weak(
    anchor: S3Anchor, s3: AwsClient, moto: str, log: GrowingLog
) -> None:
    """Something between us and the bucket asks for less than we do: it is read back, and seen."""
    checkpoint = log.grow()
    until = datetime.now(UTC) + timedelta(days=1)
    weak = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": until}
    s3.put_object(Bucket=BUCKET, Key=key_of("broker/", 1), Body=checkpoint.note.encode(), **weak)
    with pytest.raises(AnchorFailed) as failed:
        await anchor.place(checkpoint, log.prove(1))
    assert failed.value.code is Code.ANCHOR_REFUSED
    assert "without the lock" in failed.value.public


async def test_what_is_no_checkpoint(anchor: S3Anchor, s3: AwsClient, log: GrowingLog) -> None:
    """Bytes that are no text are told; any text is left to whoever verifies it."""
    s3.put_object(Bucket=BUCKET, Key="broker/0", Body=b"\xff\xfe")
    with pytest.raises(AnchorFailed) as failed:
        await anchor.latest()
    assert failed.value.code is Code.ANCHOR_INCONSISTENT


async def test_anchors_share_a_bucket_by_their_prefixes(s3: AwsClient, moto: str, log: GrowingLog) -> None:
    """One sees nothing of the other."""
    one, other = anchored(moto, prefix="one/"), anchored(moto, prefix="other/")
    await put(one, log)
    assert await other.latest() is None
    await put(other, log)
    checkpoint = log.signed_checkpoint()
    assert checkpoint is not None
    assert (await other.latest(), await one.latest() != checkpoint.note) == (checkpoint.note, True)
    await one.close()
    await other.close()


async def test_a_bucket_that_is_not_there(s3: AwsClient, moto: str, log: GrowingLog) -> None:
    """The failure names the bucket and AWS's own code, and nothing of what AWS says."""
    anchor = anchored(moto, bucket="missing")
    with pytest.raises(AnchorFailed) as failed:
        await put(anchor, log)
    assert failed.value.code is Code.ANCHOR_REFUSED
    assert "NoSuchBucket" in failed.value.public
    await anchor.close()


class _Broken(BaseHTTPRequestHandler):
    """Answers everything with an error, or without end."""

    status = 500

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.do_GET()

    def do_GET(self) -> None:
        self.send_response(self.status)
        if self.status == 200:
            self.end_headers()
            with suppress(OSError):
                for _ in range(200):
                    self.wfile.write(b" " * 65536)
            return
        body = f"<Error><Code>C{self.status}</Code><Message>hush-hush</Message></Error>".encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - the base class's name and type
        """Say nothing."""


@contextmanager
def out_of_order(status: int) -> Iterator[str]:
    """Run a server that answers so; yields its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Broken,), {"status": status}))
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "code"),
    [(500, Code.ANCHOR_UNAVAILABLE), (503, Code.ANCHOR_UNAVAILABLE), (403, Code.ANCHOR_REFUSED), (200, None)],
)
async def test_an_endpoint_that_is_out_of_order(s3: AwsClient, log: GrowingLog, status: int, code: Code | None) -> None:
    """Errors have their meaning; an answer without end is given up; nothing else than a failure comes out."""
    with out_of_order(status) as url:
        anchor = anchored(url)
        for asked in (anchor.latest(), put(anchor, log)):
            with pytest.raises(AnchorFailed) as failed:
                await asked
            assert code is None or failed.value.code is code
            assert "hush" not in failed.value.public
        await anchor.close()


async def test_nobody_there(s3: AwsClient, log: GrowingLog) -> None:
    """A port that nobody listens on."""
    anchor = anchored("http://127.0.0.1:1")
    with pytest.raises(AnchorFailed) as failed:
        await put(anchor, log)
    assert failed.value.code is Code.ANCHOR_UNAVAILABLE
    await anchor.close()
