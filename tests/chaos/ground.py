"""What a run stands on: brokers in one of the topologies, their policy and agents, and a way to each of them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.chaos.clients import Place
from tests.chaos.faults import Fault
from tests.chaos.member import Member
from tests.support.running_broker import RunningBroker

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
class Ground:
    """The brokers of a run on one SQLite file, which ``workers`` share; 1 is a process without a supervisor."""

    folder: Path
    clients: tuple[str, ...]
    workers: int = 1
    within: float = 0.0
    """After so many seconds from a durable rule on, no broker of this topology may answer from older ones."""
    members: list[Member] = field(default_factory=list)

    def prepare(self) -> None:
        """Set the brokers up: settings, keys, policy and an empty ledger."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "journals").mkdir()
        members = ", ".join(f"{{agent: {client}}}" for client in self.clients)
        self.first = RunningBroker(self.folder, policy=POLICY.replace("CLIENTS", members))
        self.first.initialise()
        text = self.first.config.read_text()
        self.first.config.write_text(text.replace("access = true", "access = false"))
        self.members = self._members()

    def start(self) -> None:
        """Start the brokers, and register the agents."""
        for member in self.members:
            member.start()
        for agent in (*self.clients, "gateway"):
            self.first.agent(agent)
        (self.folder / "operator.pem").write_bytes((self.first.home / "operator.pem").read_bytes())

    def place(self, ports: tuple[int, ...] | None = None) -> Place:
        """Return where processes meet; they reach the brokers by these ports, or directly."""
        return Place(self.folder, self.first.issuer, ports or tuple(member.port for member in self.members))

    async def open(self, stack: AsyncExitStack) -> list[Fault]:
        """Make the roads that brokers need; return what can go wrong beneath the brokers. Here only a file is there."""
        return []

    def _members(self) -> list[Member]:
        arguments = () if self.workers == 1 else ("--workers", str(self.workers))
        return [Member(self.first.config, self.first.port, arguments)]

    def evidence(self) -> list[str]:
        """Stop the brokers, whose clocks are right again, and return what the checker is to be told of the ledger."""
        for member in self.members:
            member.kill()
            member.start()
        note, vkey = self.folder / "note.txt", self.first.ask("keys", "list")["vkeys"][0]
        self.first.command("ledger", "checkpoint", "--output", str(note))
        ledger = self._ledger()
        for member in self.members:
            code = member.stop()
            assert code == 0, f"stopping ended with {code}:\n{member.log.read_text()[-4000:]}"
        return [str(ledger), "--note", str(note), "--vkey", vkey]

    def _ledger(self) -> Path:
        """Return where the ledger can be read; brokers are running still."""
        return self.first.ledger

    def surprises(self) -> list[str]:
        """Return what brokers have logged of exceptions that they do not expect, whatever befell them."""
        lines = [line for member in self.members for line in member.log.read_text().splitlines()]
        return [line for line in lines if '"error":[' in line or line.startswith("Traceback")]

    def end(self) -> None:
        """End whatever still runs."""
        for member in self.members:
            if member.process is not None and member.process.poll() is None:
                member.kill()
