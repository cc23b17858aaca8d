"""Where the master key comes from: a file, an environment variable, or the output of a command.

In each it stands as the base64 of 32 random bytes, such as ``openssl rand -base64 32`` prints.
"""

from __future__ import annotations

import base64
import os
import selectors
import signal
import stat
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from broker.core.secret import Secret
from broker.signing.sealing import MASTER_KEY_SIZE

COMMAND_TIMEOUT: Final = 10.0
"""Seconds that a command may take unless told otherwise."""

_MAX_TEXT: Final = 256  # the base64 of 32 bytes has 44 characters; the rest is room for white space
_MIN_DISTINCT: Final = 12  # 32 random bytes with fewer distinct values will never be seen; a typed placeholder will


class MasterKeyError(Exception):
    """The master key cannot be had; the text names the source and the reason, and holds no secret."""


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A file that only its owner may read."""

    path: Path


@dataclass(frozen=True, slots=True)
class KeyVariable:
    """An environment variable."""

    name: str


@dataclass(frozen=True, slots=True)
class KeyCommand:
    """A command that prints the key, such as a call to a key management service. It is run without a shell.

    ``timeout`` is in seconds. A command that takes longer is killed, with everything that it started.
    """

    argv: tuple[str, ...]
    timeout: float = COMMAND_TIMEOUT


MasterKeySource = KeyFile | KeyVariable | KeyCommand


def load_master_key(source: MasterKeySource, environment: Mapping[str, str] | None = None) -> Secret:
    """Return the 32-byte master key. Blocks, for a command up to its time-out.

    ``environment`` stands for the process's own when given. Raises :class:`MasterKeyError`.
    """
    match source:
        case KeyFile(path):
            return _decoded(_read_file(path), f"master key file {path}")
        case KeyVariable(name):
            text = (os.environ if environment is None else environment).get(name)
            if not text:
                raise MasterKeyError(f"master key variable {name}: not set")
            return _decoded(text.encode("utf-8", "surrogateescape"), f"master key variable {name}")
        case KeyCommand(argv, timeout):
            return _decoded(_run(argv, timeout), f"master key command {argv[0]}" if argv else "master key command")


def create_master_key(path: Path) -> None:
    """Write a new random master key to ``path``, durably, readable by its owner alone.

    Raises :class:`MasterKeyError` if the file exists already: a lost master key loses every key sealed under it.
    """
    text = base64.b64encode(os.urandom(MASTER_KEY_SIZE)) + b"\n"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise MasterKeyError(f"master key file {path}: cannot be created ({error.strerror})") from error


def _read_file(path: Path) -> bytes:
    try:
        # Not blocking, so that a named pipe cannot hang the start; what is checked is what was opened.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            _refuse_exposed(os.fstat(descriptor), path)
            return file.read(_MAX_TEXT + 1)
    except OSError as error:
        raise MasterKeyError(f"master key file {path}: cannot be read ({error.strerror})") from error


def _refuse_exposed(status: os.stat_result, path: Path) -> None:
    """Refuse a file that others than its owner can read or replace, or whose owner is some third user."""
    if not stat.S_ISREG(status.st_mode):
        raise MasterKeyError(f"master key file {path}: not a regular file")
    if os.name != "posix":
        return
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = stat.S_IMODE(status.st_mode)
        raise MasterKeyError(f"master key file {path}: mode {mode:04o} lets others in; make it 0600")
    if status.st_uid not in {0, os.geteuid()}:
        raise MasterKeyError(f"master key file {path}: belongs to another user")


def _decoded(text: bytes, source: str) -> Secret:
    stripped = text.strip()
    try:
        key = base64.b64decode(stripped, validate=True)
    except ValueError:
        key = b""
    # No cause is chained and no length is told: the text may be a secret in some other form.
    if len(text) > _MAX_TEXT or len(key) != MASTER_KEY_SIZE or base64.b64encode(key) != stripped:
        raise MasterKeyError(f"{source}: is not the base64 of {MASTER_KEY_SIZE} bytes")
    if len(set(key)) < _MIN_DISTINCT:
        raise MasterKeyError(f"{source}: is not random")
    return Secret(key)


def _run(argv: tuple[str, ...], timeout: float) -> bytes:
    """Return what a command prints, at most one byte more than can be a key. Its errors output is not ours to show."""
    if not argv or not all(argv):
        raise MasterKeyError("master key command: names no program")
    name = f"master key command {argv[0]}"
    deadline = time.monotonic() + timeout
    try:
        # In a session of its own, so that everything it starts can be ended with it.
        process = subprocess.Popen(  # noqa: S603 - the operator's own command, an argument list, no shell
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise MasterKeyError(f"{name}: cannot be started ({type(error).__name__})") from error
    with process:
        try:
            output = _read_until(process.stdout, deadline)
            status = process.wait(max(0.0, deadline - time.monotonic())) if len(output) <= _MAX_TEXT else 0
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            raise MasterKeyError(f"{name}: did not end within {timeout:g} s") from error
        finally:
            _end_session(process)
    if status != 0:
        raise MasterKeyError(f"{name}: failed with status {status}")
    return output


def _read_until(pipe: IO[bytes] | None, deadline: float) -> bytes:
    """Read a pipe to its end, or to one byte more than can be a key. Raises ``TimeoutError`` at the deadline."""
    output = bytearray()
    with selectors.DefaultSelector() as selector:
        descriptor = pipe.fileno() if pipe is not None else -1
        selector.register(descriptor, selectors.EVENT_READ)
        while len(output) <= _MAX_TEXT:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            chunk = os.read(descriptor, _MAX_TEXT + 1 - len(output))
            if not chunk:
                break
            output += chunk
    return bytes(output)


def _end_session(process: subprocess.Popen[bytes]) -> None:
    # A leader that was not waited for keeps its id, so the group cannot be someone else's by now.
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
