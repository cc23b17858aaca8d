"""Secrets of the broker's own, in an encrypted file: for development, demonstrations, and what has no better home.

A secret with ``generate`` is a fresh random value for each lease, which a service checks with
:meth:`LocalBackend.is_good`; one with ``stored`` is what an operator stored, and cannot be ended.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker.backends.secrets_file import Contents, Generated, Seal, SecretsFile
from broker.backends.workers import Workers
from broker.core import base64url
from broker.core.errors import BackendFailed, Code
from broker.core.lease import Ended, LeaseOrder, Taken
from broker.core.secret import Secret
from broker.core.strict_json import JSONError, read_json_object
from broker.ports import Clock

MAX_GENERATED: Final = 4096
"""How many generated values may be alive at the same time."""

_BYTES: Final = range(16, 1024 + 1)
_FOREIGN: Final = "the handle is not one of this backend"
_LEFT: Final = "a stored value cannot be ended: it is good until it is changed where it is used"
_NOT_ROTATED: Final = f"rotation is asked for, but {_LEFT}, and then here with: broker secret set"
_REPLACED: Final = "; another value was stored since, and whether the old one is still good is known only there"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """The handle of a generated value: the lease that it is for, and when that must have ended."""

    lease: str
    ends_by: int

    def wire(self) -> dict[str, str]:
        return {"kind": "generated", "lease": self.lease, "ends_by": str(self.ends_by)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """The handle of a stored value: its name, what is wished for at the end, and since when it was there."""

    name: str
    on_revoke: str
    at: int | None = None

    def wire(self) -> dict[str, str]:
        since = {} if self.at is None else {"at": str(self.at)}
        return {"kind": "stored", "name": self.name, "on_revoke": self.on_revoke, **since}


class LocalBackend:
    """Secrets in one encrypted file (port ``Backend``). Several processes of one host may share the file.

    Of a generated value only the SHA-256 is kept, until it is revoked or expires.
    """

    def __init__(
        self,
        name: str,
        file: Path,
        *,
        seal: Seal,
        clock: Clock,
        concurrency: int = 4,
        timeout_seconds: float = 10.0,
    ) -> None:
        """``seal`` must have a key of its own, derived for :data:`broker.backends.secrets_file.PURPOSE`."""
        self._name = name
        self._file = SecretsFile(name, file, seal, patience=timeout_seconds)
        self._clock = clock
        self._workers = Workers(name, count=concurrency, seconds=timeout_seconds)

    async def prepare(self, order: LeaseOrder) -> Mapping[str, str]:
        """Return the handle. Nothing is made or written; a stored value must be there."""
        wanted = self._wanted(order)
        if isinstance(wanted, _Given):
            await self._workers.run(lambda: self._since(wanted.name))
        return wanted.wire()

    async def take(self, order: LeaseOrder, handle: Mapping[str, str]) -> Taken:
        """Make a value and remember it until the lease ends, or read a stored one.

        Raises ``LEASE_ENDED`` if the handle was revoked before.
        """
        match self._read(handle):
            case _Made() as made:
                value = base64url.encode(secrets.token_bytes(self._size(order)))
                now = int(self._clock.now())
                until = min(now + order.ttl, made.ends_by)
                await self._workers.run(lambda: self._file.change(lambda held: self._add(held, made, value, until)))
                data = Secret(json.dumps({"value": value}))
                return Taken(
                    data=data, handle=made.wire(), lease_seconds=max(0, until - now), renewable=True, revocable=True
                )
            case _Given() as given:
                return await self._workers.run(lambda: self._give(given))

    async def renew(self, handle: Mapping[str, str], seconds: int) -> int:
        """Let a generated value live on, up to the end of its lease; a stored one needs only to be there."""
        match self._read(handle):
            case _Made() as made:
                now = int(self._clock.now())
                until = min(now + seconds, made.ends_by)
                await self._workers.run(lambda: self._file.change(lambda held: self._prolong(held, made, now, until)))
                return until - now
            case _Given() as given:
                await self._workers.run(lambda: self._still_stored(given.name))
                return seconds

    async def revoke(self, handle: Mapping[str, str]) -> Ended:
        """Forget a generated value, so that it is good no more. A stored one is good all the same, and says so."""
        match self._read(handle):
            case _Made() as made:
                await self._workers.run(lambda: self._file.change(lambda held: self._forget(held, made)))
                return Ended(revoked=True)
            case _Given() as given:
                return Ended(revoked=False, note=await self._workers.run(lambda: self._end_of(given)))

    async def is_good(self, value: str) -> bool:
        """Whether this is a generated value that is alive: made, not revoked, not expired."""
        digest = _digest(value)
        contents = await self._workers.run(self._file.read)
        now = self._clock.now()
        return any(made.digest == digest and now < made.until for made in contents.generated.values())

    async def close(self) -> None:
        """Take no more calls."""
        await self._workers.close()

    # --- generated values ---

    def _add(self, held: Contents, made: _Made, value: str, until: int) -> None:
        self._drop_expired(held)
        before = held.generated.get(made.lease)
        if until <= self._clock.now() or (before is not None and before.digest is None):
            raise BackendFailed(Code.LEASE_ENDED, f"the lease was ended before {self._name} made its secret")
        if len(held.generated) >= MAX_GENERATED:
            text = f"{self._name} keeps {MAX_GENERATED} generated values at most"
            raise BackendFailed(Code.BACKEND_UNAVAILABLE, text, retry_after=60)
        held.generated[made.lease] = Generated(_digest(value), until)

    def _prolong(self, held: Contents, made: _Made, now: int, until: int) -> None:
        before = held.generated.get(made.lease)
        if before is None or before.digest is None or before.until <= now or until <= now:
            raise BackendFailed(Code.LEASE_ENDED, f"{self._name} has no such secret any more")
        held.generated[made.lease] = Generated(before.digest, until)

    def _forget(self, held: Contents, made: _Made) -> None:
        """Forget the value; if there is none, remember that none may be made: a call to make it may be under way."""
        self._drop_expired(held)
        before = held.generated.pop(made.lease, None)
        if (before is None or before.digest is None) and self._clock.now() < made.ends_by:
            held.generated[made.lease] = Generated(None, made.ends_by)

    def _drop_expired(self, held: Contents) -> None:
        now = self._clock.now()
        held.generated = {lease: made for lease, made in held.generated.items() if now < made.until}

    # --- stored values ---

    def _since(self, name: str) -> int:
        found = self._file.read().stored.get(name)
        if found is None:
            text = f"{self._name} has no stored secret of that name; store it with: broker secret set"
            raise BackendFailed(Code.BACKEND_REFUSED, text)
        return found.at

    def _give(self, given: _Given) -> Taken:
        found = self._file.read().stored.get(given.name)
        if found is None:
            raise BackendFailed(Code.BACKEND_REFUSED, f"{self._name} has no stored secret of that name any more")
        handle = _Given(name=given.name, on_revoke=given.on_revoke, at=found.at).wire()
        data = Secret(_as_object(found.value))
        return Taken(data=data, handle=handle, lease_seconds=None, renewable=True, revocable=False)

    def _still_stored(self, name: str) -> None:
        if name not in self._file.read().stored:
            raise BackendFailed(Code.LEASE_ENDED, f"{self._name} has no stored secret of that name any more")

    def _end_of(self, given: _Given) -> str:
        found = self._file.read().stored.get(given.name)
        replaced = given.at is not None and (found is None or found.at != given.at)
        return (_NOT_ROTATED if given.on_revoke == "rotate" else _LEFT) + (_REPLACED if replaced else "")

    # --- settings and handles ---

    def _wanted(self, order: LeaseOrder) -> _Made | _Given:
        stored = order.settings.get("stored")
        if stored is None:
            self._size(order)
            return _Made(lease=order.lease, ends_by=order.ends_by)
        if not isinstance(stored, str):
            raise self._refused("stored must be the name of a secret")
        return _Given(name=stored, on_revoke=str(order.settings.get("on_revoke", "leave")))

    def _size(self, order: LeaseOrder) -> int:
        size = order.settings.get("generate")
        if not isinstance(size, int) or size not in _BYTES:
            raise self._refused(f"generate must be {_BYTES[0]} to {_BYTES[-1]} bytes")
        return size

    def _read(self, handle: Mapping[str, str]) -> _Made | _Given:
        try:
            if handle["kind"] == "generated":
                return _Made(lease=handle["lease"], ends_by=int(handle["ends_by"]))
            if handle["kind"] == "stored":
                at = handle.get("at")
                return _Given(name=handle["name"], on_revoke=handle["on_revoke"], at=None if at is None else int(at))
        except (KeyError, ValueError) as error:
            raise self._refused(_FOREIGN) from error
        raise self._refused(_FOREIGN)

    def _refused(self, why: str) -> BackendFailed:
        return BackendFailed(Code.BACKEND_REFUSED, f"{self._name}: {why}")


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()


def _as_object(value: str) -> str:
    """Return a stored JSON object as it is, and any other text as the member ``value`` of one."""
    try:
        read_json_object(value)
    except JSONError:
        return json.dumps({"value": value})
    return value
