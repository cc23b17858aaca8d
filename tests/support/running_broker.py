"""A real broker in a process of its own, set up through its own command line, for end-to-end tests."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

START_SECONDS = 30.0
PORTS: Final = range(10_000, 32_000)
"""Ports for servers of tests: below those that systems give away by themselves, above those of well-known services."""

TICKETS = "https://tickets.internal"
PAYMENTS = "https://payments.internal"

POLICY = """
version: 1
audiences:
  https://tickets.internal:
    scopes:
      "tickets:read": {tier: read}
      "tickets:comment": {tier: write}
    served_by: [{agent: gateway}]
  https://payments.internal:
    scopes: {"refunds:create": {tier: sensitive}}
tiers:
  read: {max_ttl: 15m}
  write: {max_ttl: 10m, proof_of_possession: required}
  sensitive: {max_ttl: 5m, proof_of_possession: required, approval: {approvers: operators, quorum: 1, expires: 10m}}
roles:
  support:
    members: [{agent: alpha}, {agent: beta}]
    allow:
      - {audience: https://tickets.internal, scopes: ["tickets:read", "tickets:comment"]}
      - {audience: https://payments.internal, scopes: ["refunds:create"]}
    limits: {tokens_per_minute: 1000000}
  watchers:
    members: [{agent: gateway}]
    allow:
      - {audience: broker, scopes: ["revocations:read"]}
  operators:
    members: [{agent: operator}]
    allow:
      - audience: broker
        scopes:
          - "operator:read"
          - "revocations:write"
          - "revocations:read"
          - "agents:write"
          - "ledger:read"
          - "keys:write"
          - "policy:write"
    limits: {tokens_per_minute: 10000}
"""


def free_port() -> int:
    """Return a TCP port on the loopback address that nobody listens on now, and that nobody is given by chance.

    The system gives clients, and servers that ask for any port, one above :data:`PORTS`. Test processes that run beside
    this one have a part of it each.
    """
    for port in _PORTS:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("the ports do not end")


def _own_ports() -> Iterator[int]:
    """Yield the ports of this process's part over and over, from a place of its own."""
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    part = PORTS[worker * len(PORTS) // count : (worker + 1) * len(PORTS) // count]
    for step in itertools.count(os.getpid() * 997):
        yield part[step % len(part)]


_PORTS: Final = _own_ports()


@dataclass
class RunningBroker:
    """A broker process and the files it lives on."""

    folder: Path
    policy: str = POLICY
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    metrics: int | None = None
    workers: int = 1

    @property
    def issuer(self) -> str:
        """The issuer URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def home(self) -> Path:
        """The folder that ``broker init`` made."""
        return self.folder / "broker"

    @property
    def config(self) -> Path:
        """The settings file."""
        return self.home / "broker.toml"

    @property
    def ledger(self) -> Path:
        """The ledger's database file."""
        return self.home / "ledger.db"

    @property
    def log(self) -> Path:
        """What the process has printed, over all its starts."""
        return self.folder / "broker.log"

    def initialise(self) -> None:
        """Run ``broker init`` on our own port and put the test policy in place."""
        self.command("init", str(self.home))
        text = self.config.read_text().replace("8640", str(self.port))
        self.config.write_text(text)
        (self.home / "policy.yaml").write_text(self.policy)

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the process and do not wait for it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "broker", "serve", "--config", str(self.config), "--workers", str(self.workers)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        return self.process

    def start(self) -> None:
        """Start the process and wait until it is ready."""
        process = self.launch()
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.issuer}/readyz", timeout=2) as response:  # noqa: S310 - http on loopback
                    if response.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.02)
        raise AssertionError(f"the broker did not start:\n{self.log.read_text()[-4000:]}")

    def worker_ids(self) -> list[int]:
        """Return the process ids of the workers that there are."""
        assert self.process is not None
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return what was logged of an event, over all starts."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def stop(self) -> int:
        """Stop gracefully; returns the exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """End the process without any warning (kill -9)."""
        return self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(how)
        code = self.process.wait(30)
        self.process = None
        return code

    def command(self, *arguments: str, expect: int = 0) -> str:
        """Run a ``broker`` command against this broker; returns standard output."""
        done = subprocess.run(
            [sys.executable, "-m", "broker", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, "BROKER_CONFIG": str(self.config), "COLUMNS": "200", "NO_COLOR": "1"},
        )
        assert done.returncode == expect, f"broker {arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def ask(self, *arguments: str) -> Any:  # noqa: ANN401 - JSON
        """Run a command with ``--json`` and return its answer."""
        return json.loads(self.command(*arguments, "--json"))

    def agent(self, name: str) -> Path:
        """Register an agent with a fresh key; returns its private key file (PEM, PKCS 8)."""
        private = self.folder / f"{name}.pem"
        public = self.folder / f"{name}.pub.pem"
        write_key_pair(private, public)
        self.command("agent", "add", name, "--public-key", str(public))
        return private


def write_key_pair(private: Path, public: Path) -> ec.EllipticCurvePrivateKey:
    """Write a fresh P-256 key pair as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    private.touch(0o600)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return key


def run(command: Sequence[str], folder: Path, **environment: str) -> str:
    """Run a foreign program; returns its standard output, or fails with all that it printed."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=110, env={**os.environ, **environment}
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
