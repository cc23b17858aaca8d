"""One encrypted file of secrets: read as a whole, replaced as a whole, and never half written.

The contents are sealed in parts, each bound to the backend's name, to this very version of the file and to its place in
it, so that neither a part nor a file can be put in another's place. What this cannot tell is a whole file that was
replaced by an older copy of itself.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol, TypeVar

import msgspec

from broker.core.errors import BackendFailed, Code

PURPOSE: Final = "local-secrets"
"""What the key that seals these files is derived from the master key for."""

MAX_FILE: Final = 16 * 1024 * 1024
"""Bytes of the longest file."""

_VERSION: Final = 1
_PART: Final = 60_000
_POLL_SECONDS: Final = 0.01
_WILL_NOT: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR})
_WILL_NOT_LOCK: Final = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ELOOP})

T = TypeVar("T")


class Seal(Protocol):
    """Encrypts values of up to 64 KiB and binds them to a context. Safe to use from several threads."""

    def seal(self, plaintext: bytes, context: str) -> bytes:
        """Return the plaintext encrypted, to be opened by naming the same context."""
        ...

    def open(self, sealed: bytes, context: str) -> bytes:
        """Return the plaintext. Raises ``ValueError`` with a text that holds no secret if it is not what was sealed."""
        ...


class Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value that an operator stored, and when (Unix seconds)."""

    value: str
    at: int

    def __repr__(self) -> str:
        return "Stored(…)"


class Generated(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value that was made for a lease, known by its SHA-256 (hex) only, until ``until`` (Unix seconds).

    Without a digest, the lease was ended before its value was made, and none may be made for it.
    """

    digest: str | None
    until: int


class Contents(msgspec.Struct, forbid_unknown_fields=True):
    """What a file holds: stored values by name, generated ones by lease."""

    stored: dict[str, Stored] = {}
    generated: dict[str, Generated] = {}


class _Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file as it stands on the disk; ``id`` is another one each time that it is written."""

    v: int
    id: str
    parts: tuple[bytes, ...]


class SecretsFile:
    """Reads and changes one file. Blocks; safe to use from several threads and several processes of one host."""

    def __init__(self, backend: str, path: Path, seal: Seal, *, patience: float) -> None:
        """``patience`` is how many seconds a change waits for the changes of others."""
        self._backend = backend
        self._path = Path(os.path.realpath(path))
        self._seal = seal
        self._patience = patience
        self._mutex = threading.Lock()

    def read(self) -> Contents:
        """Return what the file holds; nothing, if there is none.

        Raises ``BackendFailed``: ``BACKEND_REFUSED`` if it is damaged or may not be read.
        """
        return self._opened(self._bytes())

    def change(self, edit: Callable[[Contents], T]) -> T:
        """Let ``edit`` change the contents in place, write them durably if it did, and return what it returned.

        One change at a time; what ``edit`` raises changes nothing. Raises ``BackendFailed``: with ``uncertain`` if the
        change may be there although it could not be made durable.
        """
        with self._locked():
            contents = self.read()
            before = msgspec.json.encode(contents)
            result = edit(contents)
            after = msgspec.json.encode(contents)
            if after != before:
                self._write(self._closed(after))
            return result

    # --- what it looks like ---

    def _closed(self, plaintext: bytes) -> bytes:
        name = secrets.token_hex(16)
        parts = [plaintext[at : at + _PART] for at in range(0, len(plaintext), _PART)]
        contexts = (self._context(name, place, len(parts)) for place in range(len(parts)))
        sealed = tuple(self._seal.seal(part, context) for part, context in zip(parts, contexts, strict=True))
        return msgspec.json.encode(_Sealed(_VERSION, name, sealed))

    def _opened(self, data: bytes | None) -> Contents:
        if data is None:
            return Contents()
        try:
            sealed = msgspec.json.decode(data, type=_Sealed)
        except (msgspec.DecodeError, ValueError):
            raise self._damaged("it is not a file of secrets") from None
        if sealed.v != _VERSION:
            raise self._damaged("it is one of a later version of the broker")
        count = len(sealed.parts)
        try:
            parts = [
                self._seal.open(part, self._context(sealed.id, place, count)) for place, part in enumerate(sealed.parts)
            ]
        except ValueError as error:
            raise self._damaged(str(error)) from error
        try:
            return msgspec.json.decode(b"".join(parts), type=Contents)
        except (msgspec.DecodeError, ValueError):
            raise self._damaged("its contents are not those of a file of secrets") from None

    def _context(self, name: str, place: int, count: int) -> str:
        return f"local secrets {self._backend} {name} part {place} of {count}"

    # --- the disk ---

    def _bytes(self) -> bytes | None:
        try:
            # Not blocking, so that a named pipe cannot hang it.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                data = _whole(descriptor) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed("read", error) from error
        if data is None or len(data) > MAX_FILE:
            raise self._damaged("it is not a regular file, or too long")
        return data

    def _write(self, data: bytes) -> None:
        """Write a new file beside the old one and put it in its place: at no moment is there half a file."""
        if len(data) > MAX_FILE:
            raise BackendFailed(Code.BACKEND_REFUSED, f"the secrets file of {self._backend} is full")
        new = self._path.with_name(f"{self._path.name}.new")
        try:
            new.unlink(missing_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
        except OSError as error:
            with suppress(OSError):
                new.unlink(missing_ok=True)
            raise self._failed("written", error) from error
        try:
            new.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise self._failed("written", error, uncertain=True) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        deadline = time.monotonic() + self._patience
        if not self._mutex.acquire(timeout=self._patience):
            raise self._busy()
        try:
            descriptor = self._lock(deadline)
            try:
                yield
            finally:
                os.close(descriptor)
        finally:
            self._mutex.release()

    def _lock(self, deadline: float) -> int:
        """Lock out other processes, and return the descriptor that holds the lock until it is closed."""
        path = self._path.with_name(f"{self._path.name}.lock")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise self._failed("locked", error) from error
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    if time.monotonic() >= deadline:
                        raise self._busy() from error
                    time.sleep(_POLL_SECONDS)
                except OSError as error:
                    raise self._failed("locked", error) from error
                else:
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise

    # --- what goes wrong ---

    def _failed(self, what: str, error: OSError, *, uncertain: bool = False) -> BackendFailed:
        code = Code.BACKEND_REFUSED if error.errno in _WILL_NOT | _WILL_NOT_LOCK else Code.BACKEND_UNAVAILABLE
        text = f"the secrets file of {self._backend} cannot be {what} ({error.strerror})"
        return BackendFailed(code, text, uncertain=uncertain)

    def _damaged(self, why: str) -> BackendFailed:
        text = f"the secrets file of {self._backend} cannot be used, and is left as it is: {why}"
        return BackendFailed(Code.BACKEND_REFUSED, text)

    def _busy(self) -> BackendFailed:
        text = f"the secrets file of {self._backend} is being changed by another process for too long"
        return BackendFailed(Code.BACKEND_UNAVAILABLE, text, retry_after=1)


def _whole(descriptor: int) -> bytes:
    """Return what an open file holds, at most one byte more than it may."""
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read(MAX_FILE + 1)
