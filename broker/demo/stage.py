"""Starting and stopping the real processes of the demonstration, and talking to the person who watches."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp
from rich.console import Console
from rich.markup import escape

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 15.0
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOG_CHARACTERS: Final = 2000


class DemoError(Exception):
    """The demonstration could not go on; the text says at which step."""


def free_port() -> int:
    """Return a TCP port on the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class _Running:
    process: subprocess.Popen[bytes]
    stop_with: signal.Signals


class Stage:
    """The processes and folders of one run. Use it as a context: at its end all are gone, however it ends.

    The processes are stopped by their own process ids. SIGTERM and SIGHUP end the run as Ctrl-C does.
    """

    def __init__(self, console: Console) -> None:
        """``console`` is where everything is told."""
        self.console = console
        # The settings of another broker, which the shell may have, would be those of this one.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("BROKER_")}
        self.environment = {**inherited, "NO_COLOR": "1", "COLUMNS": "112"}
        self._running: dict[str, _Running] = {}
        self._folders: list[Path] = []
        self._handlers = {number: signal.getsignal(number) for number in _ENDING}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)
        self.folder = self.add_folder("broker-demo-")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in _ENDING:  # impatience must not leave anything behind
            signal.signal(number, signal.SIG_IGN)
        for name in list(self._running):
            self.stop(name)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def add_folder(self, prefix: str) -> Path:
        """Return a new folder that nobody else can read; it is removed at the end."""
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        self._folders.append(folder)
        return folder

    def files(self) -> Iterator[Path]:
        """Yield all files of this run."""
        for folder in self._folders:
            yield from (path for path in folder.rglob("*") if path.is_file())

    # --- processes --------------------------------------------------------------------------------------------------

    def start(self, name: str, *command: str) -> None:
        """Start ``python -m command…`` in the background; its output goes to ``<name>.log``."""
        self.start_program(name, [sys.executable, "-m", *command], environment=self.environment)

    def start_program(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        account: pwd.struct_passwd | None = None,
        stop_with: signal.Signals = signal.SIGTERM,
    ) -> None:
        """Start a program in the background; its output goes to ``<name>.log``.

        ``account`` is who runs it, if not we ourselves; ``stop_with`` is the signal at which it ends in good order.
        Raises ``DemoError`` if it cannot be started.
        """
        with self.log_of(name).open("wb") as log:
            try:
                process = subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    env=environment,
                    user=None if account is None else account.pw_uid,
                    group=None if account is None else account.pw_gid,
                    extra_groups=None if account is None else [],
                )
            except OSError as error:
                msg = f"{name} could not be started: {error}"
                raise DemoError(msg) from error
        self._running[name] = _Running(process, stop_with)

    def stop(self, name: str) -> None:
        """Stop a process gracefully, and make sure that it is gone."""
        running = self._running[name]
        running.process.send_signal(running.stop_with)
        try:
            running.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            running.process.kill()
            running.process.wait()
        del self._running[name]  # not before: who is interrupted while waiting stops it again

    def is_running(self, name: str) -> bool:
        """Whether a process that was started has not ended."""
        return self._running[name].process.poll() is None

    def log_of(self, name: str) -> Path:
        """Return the file that a process prints to."""
        return self.folder / f"{name}.log"

    def end_of_log(self, name: str) -> str:
        """Return the last lines that a process printed."""
        return self.log_of(name).read_text(errors="replace")[-_LOG_CHARACTERS:]

    async def answering(self, name: str, url: str) -> None:
        """Wait until ``url`` answers 200, or fail with the end of the process's log."""
        deadline = time.monotonic() + START_SECONDS
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < deadline and self.is_running(name):
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    async with session.get(url) as response:
                        if response.status == 200:  # noqa: PLR2004 - OK
                            return
                await asyncio.sleep(0.05)
        msg = f"{name} does not answer at {url}. The end of its log:\n{self.end_of_log(name)}"
        raise DemoError(msg)

    def command(self, *arguments: str, expect: int = 0, show: bool = True) -> str:
        """Run a ``broker`` command, show it with what it prints, and return its output."""
        if show:
            self.show(*arguments)
        done = subprocess.run(
            [sys.executable, "-m", "broker", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=self.environment,
            timeout=120,
        )
        output = done.stdout + done.stderr
        if done.returncode != expect:
            msg = f"broker {' '.join(arguments)} ended with {done.returncode} instead of {expect}:\n{output}"
            raise DemoError(msg)
        if show:
            for line in output.rstrip().splitlines():
                self.quote(line)
        return output

    # --- telling ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def step(self, number: int, title: str) -> Iterator[None]:
        """Head one step of the demonstration."""
        self.console.print(f"\n[bold]{number:>2}. {escape(title)}[/]")
        yield

    def say(self, text: str) -> None:
        """Print one line of what happened."""
        self.console.print(f"  {text}", soft_wrap=True)

    def quote(self, line: str) -> None:
        """Print one line that some program, or some file, says."""
        self.say(f"  [dim]{escape(line)}[/]")

    def show(self, *arguments: str) -> None:
        """Print a ``broker`` command as one would type it."""
        self.say(f"[bold cyan]$ broker {escape(shlex.join(arguments))}[/]")

    def expect(self, condition: bool, what: str) -> None:  # noqa: FBT001 - reads as a sentence
        """Print what was expected and seen, or end the demonstration."""
        if not condition:
            msg = f"not so: {what}"
            raise DemoError(msg)
        self.say(f"[green]✓[/] {escape(what)}")
