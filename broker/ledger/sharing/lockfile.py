"""One broker per ledger file: a lock for other processes of this host, a heartbeat for other hosts.

The processes of one broker hold one lock together: it belongs to the open file, which the first of them hands down.

SQLite's write-ahead log needs shared memory and honest locks, which a file system that several hosts share does not
give. So a network file system is refused outright, the lock file is held by ``flock`` while the process lives, and the
lock file says who holds it and that they are alive: should the file system grant the lock to two hosts at once, the
younger one sees the other's heartbeat and gives up.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec

from broker.core.errors import Code, Unavailable
from broker.ports import Clock

HEARTBEAT_SECONDS: Final = 5.0
FRESH_SECONDS: Final = 15.0
"""A heartbeat younger than this is of a living process."""

_MOUNTS: Final = Path("/proc/self/mountinfo")
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_MAX_RECORD: Final = 4096
_RECORD: Final = 1024
"""Bytes of a record, padded, so that each beat replaces the one before as a whole while others of the broker read."""
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")
_MOUNT_POINT: Final = 4

_NETWORK: Final = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"}
    | {"fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs", "fuse.juicefs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"}
)


class Owner(msgspec.Struct, frozen=True):
    """Who holds the ledger. ``token`` tells two holders apart; ``boot`` is one running kernel; ``at`` Unix seconds."""

    token: str
    boot: str
    host: str
    pid: int
    at: float


@dataclass(frozen=True, slots=True)
class _Self:
    boot: str
    host: str


class LedgerLock:
    """Held from :meth:`acquire` to :meth:`release`, by this process or with others of the same broker."""

    def __init__(self, descriptor: int, owner: Owner, clock: Clock, *, shared: bool = False) -> None:
        """``descriptor`` is the open lock file with the lock on it; ``shared`` says that another process beats."""
        self.descriptor = descriptor
        self._owner = owner
        self._clock = clock
        self._shared = shared
        self._lost: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="ledger-heartbeat", daemon=True)

    @classmethod
    def acquire(cls, database: Path, clock: Clock) -> Self:
        """Take the lock of a database. Raises :class:`Unavailable`, whose text says who has it or what is wrong."""
        _refuse_network(database)
        descriptor = os.open(f"{database}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(descriptor)
            here = _here()
            _refuse_other_kernel(descriptor, here, clock.now())
            owner = Owner(secrets.token_hex(16), here.boot, here.host, os.getpid(), clock.now())
            _write(descriptor, owner)
        except BaseException:
            os.close(descriptor)
            raise
        lock = cls(descriptor, owner, clock)
        lock._thread.start()
        return lock

    @classmethod
    def join(cls, descriptor: int, clock: Clock) -> Self:
        """Hold the lock together with the process that took it and handed down its descriptor.

        Raises :class:`Unavailable` if that one has given it back.
        """
        owner = _read(descriptor)
        if owner is None:
            raise Unavailable(Code.LEDGER_UNAVAILABLE, "the ledger was given back by the process that had taken it")
        lock = cls(os.dup(descriptor), owner, clock, shared=True)
        lock._thread.start()
        return lock

    def check(self) -> None:
        """Raise :class:`Unavailable` (``LEDGER_CORRUPT``) if another host has taken the ledger."""
        if self._lost is not None:
            raise Unavailable(Code.LEDGER_CORRUPT, self._lost)

    def release(self) -> None:
        """Let others have the ledger at once: the record is emptied, the lock given back.

        A process that holds it together with others lets go of its own part alone.
        """
        self._stop.set()
        self._thread.join()
        if self._lost is None and not self._shared:
            os.ftruncate(self.descriptor, 0)
        os.close(self.descriptor)

    def beat(self) -> None:
        """Say that this process lives, and look whether somebody else says so."""
        found = _read(self.descriptor)
        if found is None or found.token != self._owner.token:
            who = "something else" if found is None else _named(found)
            self._lost = f"{who} has taken over the ledger's lock file; this broker writes no more"
        elif not self._shared:
            _write(self.descriptor, msgspec.structs.replace(self._owner, at=self._clock.now()))

    def _beat(self) -> None:
        while self._lost is None and not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                self.beat()
            except OSError:
                # A full disk, say: the lock itself stays, and the ledger's own writes report what is wrong.
                continue


def filesystem_of(path: Path, mounts: str) -> str:
    """Return the type of the file system that holds ``path``, from the text of /proc/self/mountinfo (proc(5))."""
    best, kind = -1, ""
    for line in mounts.splitlines():
        fields, separator, rest = line.partition(" - ")
        parts, details = fields.split(" "), rest.split(" ")
        if not separator or len(parts) <= _MOUNT_POINT:
            continue
        mounted = Path(_ESCAPED.sub(lambda match: chr(int(match[1], 8)), parts[_MOUNT_POINT]))
        # Of two mounts on the same point, the later one covers the earlier.
        if path.is_relative_to(mounted) and len(mounted.parts) >= best:
            best, kind = len(mounted.parts), details[0]
    return kind


def network_filesystem(path: Path, mounts: str) -> str | None:
    """Return the type of the network file system that holds ``path``, or None if it is local."""
    kind = filesystem_of(path, mounts)
    return kind if kind in _NETWORK else None


def _refuse_network(database: Path) -> None:
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return  # not Linux; the lock and the heartbeat remain
    kind = network_filesystem(database.parent.resolve(), mounts)
    if kind is not None:
        text = (
            f"the ledger is on a network file system ({kind}), where SQLite's locks and shared log do not work between"
            " hosts and the record could be destroyed; put it on a local disk"
        )
        raise Unavailable(Code.LEDGER_UNAVAILABLE, text)


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EAGAIN, errno.EACCES}:
            other = _read(descriptor)
            who = "another process" if other is None else _named(other)
            text = f"{who} has this ledger open; one ledger file serves one broker"
            raise Unavailable(Code.LEDGER_UNAVAILABLE, text) from error
        text = "the file system of the ledger offers no locks; put it on a local disk"
        raise Unavailable(Code.LEDGER_UNAVAILABLE, text) from error


def _here() -> _Self:
    host = socket.gethostname()
    try:
        return _Self(_BOOT_ID.read_text(encoding="ascii").strip(), host)
    except OSError:
        return _Self(host, host)


def _refuse_other_kernel(descriptor: int, here: _Self, now: float) -> None:
    """Refuse if a living process under another kernel says it has the ledger: our lock cannot see its lock."""
    other = _read(descriptor)
    if other is None or other.boot == here.boot or abs(now - other.at) >= FRESH_SECONDS:
        return
    text = (
        f"{_named(other)} has this ledger, and this file system does not carry its lock to other hosts;"
        f" if that broker is gone, try again in {FRESH_SECONDS:.0f} seconds"
    )
    raise Unavailable(Code.LEDGER_UNAVAILABLE, text)


def _read(descriptor: int) -> Owner | None:
    try:
        return msgspec.json.decode(os.pread(descriptor, _MAX_RECORD, 0), type=Owner)
    except msgspec.DecodeError:
        return None


def _write(descriptor: int, owner: Owner) -> None:
    record = msgspec.json.encode(owner).ljust(_RECORD)
    os.pwrite(descriptor, record, 0)
    os.ftruncate(descriptor, len(record))


def _named(owner: Owner) -> str:
    return f"the broker with process id {owner.pid} on host {owner.host!r}"
