"""Where everything of one run of the demonstration is, and the agents that work there."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from broker.client import Client, PlatformIdentity
from broker.client.waiting import OnPending
from broker.demo.cluster import token_file

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Places:
    """The ports and files of one run."""

    folder: Path
    broker_port: int
    cluster_port: int
    tickets_port: int

    @property
    def broker(self) -> str:
        """The broker's issuer URL."""
        return f"http://127.0.0.1:{self.broker_port}"

    @property
    def cluster(self) -> str:
        """The cluster's issuer URL."""
        return f"http://127.0.0.1:{self.cluster_port}"

    @property
    def tickets(self) -> str:
        """The ticket system: the audience of the agents' tokens."""
        return f"http://127.0.0.1:{self.tickets_port}"

    @property
    def home(self) -> Path:
        """The broker's own folder."""
        return self.folder / "broker"

    @property
    def config(self) -> Path:
        """The broker's settings file."""
        return self.home / "broker.toml"

    @property
    def ledger(self) -> Path:
        """The broker's ledger."""
        return self.home / "ledger.db"

    def agent(self, workload: str, *, dpop: bool, on_pending: OnPending | None = None) -> Client:
        """Return a client of the broker that proves what it is with the cluster's word for a workload."""
        identity = PlatformIdentity(token_file(self.folder, workload))
        return Client(self.broker, identity=identity, dpop=dpop, on_pending=on_pending)


async def timed(work: Awaitable[T]) -> tuple[T, float]:
    """Await ``work``; return its result and how long it took in milliseconds."""
    before = time.perf_counter()
    result = await work
    return result, (time.perf_counter() - before) * 1000
