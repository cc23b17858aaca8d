"""Starting and stopping the real processes of the demonstration, and talking to the person who watches."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.markup import escape

START_SECONDS = 30.0
STOP_SECONDS = 15.0


class DemoError(Exception):
    """The demonstration could not go on; the text says at which step."""


def free_port() -> int:
    """Return a TCP port on the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Stage:
    """The processes of one run; all of them are stopped at the end, by their own process ids."""

    def __init__(self, folder: Path, console: Console) -> None:
        """``folder`` takes the logs of the processes."""
        self.folder = folder
        self.console = console
        self.environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "112"}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str) -> None:
        """Start ``python -m command…`` in the background; its output goes to ``<name>.log``."""
        with (self.folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.environment
            )

    def stop(self, name: str) -> None:
        """Stop a process gracefully, and make sure that it is gone."""
        process = self._processes.pop(name)
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop_all(self) -> None:
        """Stop whatever still runs."""
        for name in list(self._processes):
            self.stop(name)

    async def answering(self, name: str, url: str) -> None:
        """Wait until ``url`` answers 200, or fail with the end of the process's log."""
        deadline = time.monotonic() + START_SECONDS
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < deadline and self._processes[name].poll() is None:
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    async with session.get(url) as response:
                        if response.status == 200:  # noqa: PLR2004 - OK
                            return
                await asyncio.sleep(0.05)
        log = (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]
        msg = f"{name} does not answer at {url}. The end of its log:\n{log}"
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
                self.say(f"  [dim]{escape(line)}[/]")
        return output

    @contextlib.contextmanager
    def step(self, number: int, title: str) -> Iterator[None]:
        """Head one step of the demonstration."""
        self.console.print(f"\n[bold]{number:>2}. {escape(title)}[/]")
        yield

    def say(self, text: str) -> None:
        """Print one line of what happened."""
        self.console.print(f"  {text}", soft_wrap=True)

    def show(self, *arguments: str) -> None:
        """Print a ``broker`` command as one would type it."""
        self.say(f"[bold cyan]$ broker {escape(shlex.join(arguments))}[/]")

    def expect(self, condition: bool, what: str) -> None:  # noqa: FBT001 - reads as a sentence
        """Print what was expected and seen, or end the demonstration."""
        if not condition:
            msg = f"not so: {what}"
            raise DemoError(msg)
        self.say(f"[green]✓[/] {escape(what)}")
