"""Files with secrets in them that live in memory, never on a disk, and are gone afterwards."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final, Self

from broker.cli.keyfile import write_new
from broker.cli.outcome import Failure, unusable

MOUNTS: Final = Path("/proc/self/mountinfo")
SHARED: Final = Path("/dev/shm")  # noqa: S108 - in it is a folder of our own, which nobody else may enter

_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})


class MemoryFiles:
    """A folder in memory, for this user alone, as a context; it is made when the first file is."""

    def __init__(self) -> None:
        """Find where it can be. Raises ``Failure`` if there is no file system in memory."""
        self._base = memory_folder()
        self._folder: Path | None = None

    def write(self, name: str, data: bytes) -> Path:
        """Write a file of mode 0600 and return where it is. Raises ``Failure``."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="broker-", dir=self._base))
        path = self._folder / name
        write_new(path, data)
        return path

    def __enter__(self) -> Self:
        """Nothing is made yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove everything."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def memory_folder() -> Path:
    """Return a folder whose file system is in memory. Raises ``Failure`` if there is none."""
    for folder in (os.environ.get("XDG_RUNTIME_DIR"), SHARED):
        if folder and os.access(folder, os.W_OK | os.X_OK) and _is_in_memory(Path(folder)):
            return Path(folder)
    raise no_memory()


def no_memory() -> Failure:
    """Return the failure of having nowhere to write a secret to."""
    text = f"--file: there is no tmpfs at XDG_RUNTIME_DIR or {SHARED}, and secrets are written to no disk; use --lease"
    return unusable(text, "no_tmpfs")


def _is_in_memory(folder: Path) -> bool:
    """Whether a folder's file system is in memory, by the kernel's word about mounts (proc(5), mountinfo)."""
    try:
        device = folder.stat().st_dev
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        mount, _, kind = line.partition(" - ")
        fields = mount.split()
        if len(fields) > 2 and fields[2] == number:  # noqa: PLR2004 - the third field is the device
            return kind.split(" ", 1)[0] in _IN_MEMORY
    return False
