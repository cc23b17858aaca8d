"""One broker process of a run: started, stopped, signalled and killed with whatever it has started itself."""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SKEW: Final = Path(__file__).parent / "skew"
"""The folder whose ``sitecustomize`` makes clocks wrong."""

PATIENCE: Final = 60.0
"""Seconds that starting and stopping may take, each."""


@dataclass
class Member:
    """A broker process that listens on ``port``, with its workers if it has some; others may share its ledger."""

    config: Path
    port: int
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What it has printed, over all its starts."""
        return self.config.with_name(f"log-{self.port}")

    @property
    def clock(self) -> Path:
        """What says how wrong its clock is."""
        return self.config.with_name(f"clock-{self.port}")

    def set_clock(self, ahead: float) -> None:
        """Set its clock ahead of the right time by so many seconds; it runs, and does not hear of that."""
        with self.clock.open("r+b") as file:
            file.write(struct.pack("d", ahead))

    def start(self) -> None:
        """Start it, and wait until it is ready.

        It is started again when it ends, as whatever looks after processes does: what it needs may be out of order.
        """
        deadline = time.monotonic() + PATIENCE
        self.clock.write_bytes(struct.pack("d", 0.0))
        self.process = self._launched()
        while not self.is_ready():
            if time.monotonic() > deadline:
                raise AssertionError(f"the broker did not start:\n{self.log.read_text()[-4000:]}")
            if self.process.poll() is not None:
                self.process = self._launched()
            time.sleep(0.05)

    def _launched(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(SKEW), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        clock = {"CHAOS_SKEW": str(self.clock), "PYTHONPATH": path}
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "broker", "serve", "--config", str(self.config), *self.arguments],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, **self.environment, "BROKER_LISTEN_PORT": str(self.port), **clock},
            )

    def is_ready(self) -> bool:
        """Whether it says so."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> int:
        """Stop gracefully; returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """End the process, and its workers, without any warning."""
        assert self.process is not None
        self.signal(signal.SIGKILL)
        self.process.wait()

    def signal(self, which: signal.Signals) -> None:
        """Send a signal to the process and its workers."""
        assert self.process is not None
        os.killpg(self.process.pid, which)

    @property
    def has_workers(self) -> bool:
        """Whether it is a supervisor."""
        return "--workers" in self.arguments

    def worker(self) -> int:
        """The process id of one of its workers; its own while there is none."""
        assert self.process is not None
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(random.choice(children)) if children else pid

    def resident(self) -> float:
        """The most memory (MiB) that the process itself has had in use so far."""
        assert self.process is not None
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
