"""An anchor that is a bucket of S3: an object for each checkpoint, locked so that nobody can remove it for a while.

The keys begin with what is left of the largest possible size, so that the youngest checkpoint is the first in the
order in which S3 lists them. An object is only made where there is none, and its lock is read back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

from broker.backends.aws_failures import AwsFailed
from broker.backends.aws_session import AwsAccount, AwsSession, OwnToken
from broker.core.errors import AnchorFailed, BackendFailed, Code
from broker.ports import Clock, Placed, Prove, SignedHead

MAX_SIZE: Final = 2**63 - 1
MAX_NOTE: Final = 64 * 1024

_EXISTS: Final = "PreconditionFailed"
_REQUESTS: Final = 2
_SECOND: Final = timedelta(seconds=1)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedBucket:
    """A bucket with object lock. ``mode`` is ``COMPLIANCE`` or ``GOVERNANCE``; a lock holds for ``retain_days``."""

    bucket: str
    prefix: str
    mode: str
    retain_days: int


class S3Anchor:
    """Puts objects (port ``Anchor``), through boto3."""

    remembers: Final = True

    def __init__(
        self, name: str, place: LockedBucket, account: AwsAccount, *, clock: Clock, own_token: OwnToken
    ) -> None:
        """Nothing is asked before the first call."""
        self._place = place
        self._clock = clock
        self._session = AwsSession(name, account, clock=clock, own_token=own_token)

    async def place(self, checkpoint: SignedHead, _prove: Prove, /) -> Placed:
        """Make a locked object; returns once its lock was read back."""
        return await self._run(lambda: self._put(checkpoint))

    async def latest(self) -> str | None:
        """Return the note of the largest size."""
        return await self._run(self._first)

    async def close(self) -> None:
        """Take no more requests."""
        await self._session.close()

    # --- in a thread ------------------------------------------------------------------------------------------------

    def _put(self, checkpoint: SignedHead) -> Placed:
        key = key_of(self._place.prefix, checkpoint.size)
        until = datetime.fromtimestamp(self._clock.now(), UTC) + timedelta(days=self._place.retain_days)
        is_new = self._made(key, checkpoint.note, until)
        found = self._ask("GetObject", key)
        if _text(found) != checkpoint.note:
            text = f"there is another checkpoint of {checkpoint.size} entries in the bucket"
            raise AnchorFailed(Code.ANCHOR_INCONSISTENT, text)
        return Placed(self._lock(key, found, until if is_new else None))

    def _made(self, key: str, note: str, until: datetime) -> bool:
        """Make an object, and return True; or False if there is one already, which stays as it is."""
        made = {
            "Body": note.encode(),
            "ContentType": "text/plain; charset=utf-8",
            "IfNoneMatch": "*",
            "ObjectLockMode": self._place.mode,
            "ObjectLockRetainUntilDate": until,
        }
        try:
            self._ask("PutObject", key, **made)
        except AwsFailed as error:
            if error.error != _EXISTS:
                raise
            return False
        return True

    def _lock(self, key: str, found: Mapping[str, Any], until: datetime | None) -> str:
        """Return where an object is and how it is locked, in words; ``until`` is when its lock must not end before."""
        mode, ends = found.get("ObjectLockMode"), found.get("ObjectLockRetainUntilDate")
        if mode != self._place.mode or ends is None or (until is not None and ends < until - _SECOND):
            text = "the bucket took the checkpoint without the lock that was asked for: it may be removed"
            raise AnchorFailed(Code.ANCHOR_REFUSED, text)
        return f"s3://{self._place.bucket}/{key}: {mode} until {ends.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"

    def _first(self) -> str | None:
        listed = self._ask("ListObjectsV2", self._place.prefix, Prefix=self._place.prefix, MaxKeys=1)
        found = listed.get("Contents", [])
        return _text(self._ask("GetObject", found[0]["Key"])) if found else None

    def _ask(self, operation: str, key: str, **parameters: Any) -> dict[str, Any]:  # noqa: ANN401 - boto's own
        about = {} if operation == "ListObjectsV2" else {"Key": key}
        resource = f"{self._place.bucket}/{key}"
        return self._session.request(
            f"s3:{operation}", resource, {"Bucket": self._place.bucket, **about, **parameters}, effect=False
        )

    async def _run(self, work: Callable[[], T]) -> T:
        """Run what makes a few requests in a thread. Raises ``AnchorFailed`` only."""
        try:
            return await self._session.run(work, requests=_REQUESTS)
        except BackendFailed as error:
            code = Code.ANCHOR_UNAVAILABLE if error.code is Code.BACKEND_UNAVAILABLE else Code.ANCHOR_REFUSED
            raise AnchorFailed(code, error.public, retry_after=error.retry_after) from error


def _text(found: Mapping[str, Any]) -> str:
    """Return what an object holds."""
    try:
        return str(found["Body"].read(MAX_NOTE).decode())
    except UnicodeDecodeError as error:
        raise AnchorFailed(Code.ANCHOR_INCONSISTENT, "an object in the bucket is no checkpoint") from error
    except BotoCoreError as error:
        raise AnchorFailed(Code.ANCHOR_UNAVAILABLE, "an object of the bucket cannot be read") from error


def key_of(prefix: str, size: int) -> str:
    """Return the key of the checkpoint of a size: those of larger ones come before it."""
    return f"{prefix}{MAX_SIZE - size:019d}-{size}"
