"""What a run stands on: brokers in one of the topologies, their policy and agents, and a way to each of them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.chaos.clients import Place
from tests.support.running_broker import START_SECONDS, RunningBroker

SKEW: Final = Path(__file__).parent / "skew"

POLICY: Final = """
version: 1
audiences:
  https://tickets.internal: {scopes: {"tickets:read": {tier: read}}}
tiers:
  read: {max_ttl: 15m}
roles:
  support:
    members: [CLIENTS]
    allow: [{audience: https://tickets.internal, scopes: ["tickets:read"]}]
    limits: {tokens_per_minute: 1000000}
  watchers:
    members: [{agent: gateway}]
    allow: [{audience: broker, scopes: ["revocations:read"]}]
    limits: {tokens_per_minute: 1000000}
  operators:
    members: [{agent: operator}]
    allow:
      - {audience: broker, scopes: ["operator:read", "revocations:write", "agents:write", "keys:write", "ledger:read"]}
    limits: {tokens_per_minute: 1000000}
"""


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

    def start(self, *, skew: float = 0.0) -> None:
        """Start it, with a clock that is ``skew`` seconds ahead, and wait until it is ready."""
        path = os.pathsep.join([str(SKEW), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        wrong = {"CHAOS_SKEW": str(skew), "PYTHONPATH": path} if skew else {}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "broker", "serve", "--config", str(self.config), *self.arguments],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, **self.environment, "BROKER_LISTEN_PORT": str(self.port), **wrong},
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError(f"the broker did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.05)

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
        return self.process.wait(START_SECONDS)

    def kill(self) -> None:
        """End the process, and its workers, without any warning."""
        assert self.process is not None
        self.signal(signal.SIGKILL)
        self.process.wait()

    def signal(self, which: signal.Signals) -> None:
        """Send a signal to the process and its workers."""
        assert self.process is not None
        os.killpg(self.process.pid, which)

    def worker(self) -> int | None:
        """The process id of one of its workers, if it has some."""
        assert self.process is not None
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(random.choice(children)) if children else None


@dataclass
class Ground:
    """The brokers of a run on one SQLite file, which ``workers`` share; 1 is a process without a supervisor."""

    folder: Path
    clients: tuple[str, ...]
    workers: int = 1
    within: float = 0.0
    """After so many seconds from a durable rule on, no broker of this topology may answer from older ones."""
    members: list[Member] = field(default_factory=list)

    def start(self) -> None:
        """Set the brokers up, start them, and register the agents."""
        members = ", ".join(f"{{agent: {client}}}" for client in self.clients)
        self.first = RunningBroker(self.folder, policy=POLICY.replace("CLIENTS", members))
        self.first.initialise()
        text = self.first.config.read_text()
        self.first.config.write_text(text.replace("access = true", "access = false"))
        self.members = self._members()
        for member in self.members:
            member.start()
        for agent in (*self.clients, "gateway"):
            self.first.agent(agent)
        (self.folder / "operator.pem").write_bytes((self.first.home / "operator.pem").read_bytes())

    def place(self, ports: tuple[int, ...]) -> Place:
        """Return where processes meet that reach the brokers by these ports."""
        return Place(self.folder, self.first.issuer, ports)

    def _members(self) -> list[Member]:
        arguments = () if self.workers == 1 else ("--workers", str(self.workers))
        return [Member(self.first.config, self.first.port, arguments)]

    def evidence(self) -> list[str]:
        """Stop the brokers and return what the checker is to be told of the ledger."""
        note, vkey = self.folder / "note.txt", self.first.ask("keys", "list")["vkeys"][0]
        self.first.command("ledger", "checkpoint", "--output", str(note))
        for member in self.members:
            code = member.stop()
            assert code == 0, f"stopping ended with {code}:\n{member.log.read_text()[-4000:]}"
        return [str(self.first.ledger), "--note", str(note), "--vkey", vkey]

    def end(self) -> None:
        """End whatever still runs."""
        for member in self.members:
            if member.process is not None and member.process.poll() is None:
                member.kill()
