"""An anchor that is a file, on a mount that the broker's machine can only append to: a line for each checkpoint.

A line is a JSON object with ``note``, the signed checkpoint as it is, and ``placed_at``, Unix seconds. A line that is
not complete is what a crash or a full disk has left; it is skipped, and the next one begins on a line of its own.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

import msgspec

from broker.anchors.patient_thread import PatientThread
from broker.core.errors import AnchorFailed, Code
from broker.durable_files import sync_folder
from broker.ports import Clock, Placed, Prove, SignedHead

TAIL: Final = 256 * 1024
"""How many bytes of the end are searched for the last complete line; a line has 33 KiB at most."""

_NEW_FILE: Final = 0o644
"""Anyone who may enter the folder may read it: checkpoints hold no secrets."""

_APPEND: Final = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK


class _Line(msgspec.Struct):
    note: str
    placed_at: float


class FileAnchor:
    """Appends to a file (port ``Anchor``), in a thread of its own."""

    remembers: Final = True

    def __init__(self, path: Path, *, clock: Clock, timeout_seconds: float) -> None:
        """Nothing is opened before the first call."""
        self._path = path
        self._clock = clock
        self._thread = PatientThread("anchor-file", seconds=timeout_seconds)
        self._seen: tuple[int, int, int] | None = None

    async def place(self, checkpoint: SignedHead, _prove: Prove, /) -> Placed:
        """Append a checkpoint, and return once it is on the disk."""
        line = msgspec.json.encode(_Line(checkpoint.note, self._clock.now())) + b"\n"
        end = await self._thread.run(lambda: self._append(line))
        return Placed(f"{self._path}: bytes {end - len(line)} to {end}")

    async def latest(self) -> str | None:
        """Return the note of the last complete line."""
        return await self._thread.run(self._read)

    async def close(self) -> None:
        """Let the thread end."""
        self._thread.close()

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _append(self, line: bytes) -> int:
        try:
            file, is_new = self._opened()
            try:
                return self._append_to(file, line, is_new=is_new)
            finally:
                os.close(file)
        except OSError as error:
            raise _failed(error) from error

    def _opened(self) -> tuple[int, bool]:
        try:
            return os.open(self._path, _APPEND), False
        except FileNotFoundError:
            if self._seen is not None:
                self._seen = None
                raise AnchorFailed(Code.ANCHOR_LOST, "the file is gone") from None
            return os.open(self._path, _APPEND | os.O_CREAT | os.O_EXCL, _NEW_FILE), True

    def _append_to(self, file: int, line: bytes, *, is_new: bool) -> int:
        """Append to the file that was written before, and to no other. Returns where the line ends."""
        self._compare(_regular(file))
        size = os.fstat(file).st_size
        whole = size == 0 or os.pread(file, 1, size - 1) == b"\n"
        _write(file, line if whole else b"\n" + line)
        os.fsync(file)
        if is_new:
            sync_folder(self._path.parent)
        end = os.fstat(file)
        self._seen = (end.st_dev, end.st_ino, end.st_size)
        return end.st_size

    def _compare(self, found: os.stat_result) -> None:
        """Raise, once, if this is not the file as it was left; another writer may have appended to it."""
        seen, now = self._seen, (found.st_dev, found.st_ino, found.st_size)
        if seen is None:
            return
        if now[:2] != seen[:2] or now[2] < seen[2]:
            self._seen = now
            what = "was replaced by another" if now[:2] != seen[:2] else f"was cut from {seen[2]} to {now[2]} bytes"
            raise AnchorFailed(Code.ANCHOR_LOST, f"the file {what}")

    def _read(self) -> str | None:
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                size = _regular(file).st_size
                end = os.pread(file, TAIL, max(0, size - TAIL))
            finally:
                os.close(file)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed(error) from error
        return _last_note(end, is_whole=size <= TAIL)


def _last_note(end: bytes, *, is_whole: bool) -> str | None:
    """Return the note of the last line that is complete; None if there never was any."""
    for line in reversed(end.split(b"\n")[:-1]):
        try:
            return msgspec.json.decode(line, type=_Line).note
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    if is_whole and len(end.split(b"\n")) <= 2:  # noqa: PLR2004 - nothing, or what the first attempt has left
        return None
    raise AnchorFailed(Code.ANCHOR_INCONSISTENT, "the end of the file holds no checkpoint, but something else")


def _regular(file: int) -> os.stat_result:
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):
        raise AnchorFailed(Code.ANCHOR_REFUSED, "what is at its path is not a regular file")
    return found


def _write(file: int, data: bytes) -> None:
    """Write everything; what is written in part before it fails is an incomplete line."""
    while data:
        data = data[os.write(file, data) :]


def _failed(error: OSError) -> AnchorFailed:
    """Say what became of the file, by the system's own words."""
    lasting = error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
    code = Code.ANCHOR_REFUSED if lasting else Code.ANCHOR_UNAVAILABLE
    return AnchorFailed(code, f"the file cannot be used: {error.strerror}")
