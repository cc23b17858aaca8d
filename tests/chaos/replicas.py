"""Brokers that share one PostgreSQL, each with a road of its own to it, and its own files, as on a host of its own."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.chaos.database import Database
from tests.chaos.faults import Fault, of_road
from tests.chaos.ground import Ground
from tests.chaos.member import Member
from tests.support.road import Road
from tests.support.running_broker import free_port

STALENESS: Final = 1.0
"""The default of ``ledger.max_staleness_seconds``."""


@dataclass
class Replicas(Ground):
    """A ground of several brokers that share a database. ``roads`` lead there, one for each."""

    replicas: int = 3
    within: float = STALENESS
    roads: list[Road] = field(default_factory=list)

    async def open(self, stack: AsyncExitStack) -> list[Fault]:
        """Start the database, move the new ledger there, and make a road to it for each broker."""
        database = await asyncio.to_thread(stack.enter_context, Database())
        text = self.first.config.read_text()
        self.first.config.write_text(text.replace('path = "ledger.db"', f'url = "{database.url}"'))
        await asyncio.to_thread(self.first.command, "db", "move", str(self.first.ledger))
        faults = database.faults()
        for number, member in enumerate(self.members, 1):
            road = await stack.enter_async_context(Road([database.socket]))
            self.roads.append(road)
            shutil.copytree(self.first.home, member.config.parent)
            member.environment = {"BROKER_LEDGER_URL": f"postgresql://postgres@127.0.0.1:{road.port}/postgres"}
            faults += of_road(road, f"road of replica {number}")
        return faults

    def _members(self) -> list[Member]:
        ports = [self.first.port, *(free_port() for _ in range(self.replicas - 1))]
        return [Member(self.folder / f"replica-{number}" / "broker.toml", port) for number, port in enumerate(ports, 1)]

    def _ledger(self) -> Path:
        """Have it exported, which needs a broker or its database."""
        export = self.folder / "export.jsonl"
        self.first.command("ledger", "export", "--output", str(export))
        return export
