"""A backend that keeps its secrets in memory and does as it is told: fails, hangs, loses its answers."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from broker.core.errors import BackendFailed, Code
from broker.core.lease import Ended, LeaseOrder, Taken
from broker.core.secret import Secret

Hook = Callable[[], Awaitable[None]]


async def nothing() -> None:
    """Do nothing."""


def down(*, uncertain: bool = False) -> BackendFailed:
    """Return what a backend says that is not there."""
    return BackendFailed(Code.BACKEND_UNAVAILABLE, "it is down", uncertain=uncertain, retry_after=1)


@dataclass
class ScriptedBackend:
    """What it made and not ended is in ``alive``, by the lease it was for: what must never be left behind."""

    alive: dict[str, str] = field(default_factory=dict)
    before: dict[str, Hook] = field(default_factory=dict)
    after: dict[str, Hook] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    seconds: int | None = 600
    revocable: bool = True

    async def prepare(self, order: LeaseOrder) -> Mapping[str, str]:
        """Return a handle."""
        await self._step("prepare", order.lease)
        return {"lease": order.lease}

    async def take(self, order: LeaseOrder, handle: Mapping[str, str]) -> Taken:
        """Make a secret."""
        self.asked.append(("take", order.lease))
        await self.before.get("take", nothing)()
        self.alive[order.lease] = value = secrets.token_urlsafe()
        await self.after.get("take", nothing)()
        return Taken(
            data=Secret(json.dumps({"value": value})),
            handle={**handle, "sealed": "yes"},
            lease_seconds=self.seconds,
            renewable=True,
            revocable=self.revocable,
        )

    async def renew(self, handle: Mapping[str, str], seconds: int) -> int:
        """Let it live on."""
        await self._step("renew", handle["lease"])
        if handle["lease"] not in self.alive:
            raise BackendFailed(Code.LEASE_ENDED, "there is no such secret")
        return seconds

    async def revoke(self, handle: Mapping[str, str]) -> Ended:
        """End it."""
        self.asked.append(("revoke", handle["lease"]))
        await self.before.get("revoke", nothing)()
        if not self.revocable:
            return Ended(revoked=False, note="it cannot be revoked")
        self.alive.pop(handle["lease"], None)
        await self.after.get("revoke", nothing)()
        return Ended(revoked=True)

    async def close(self) -> None:
        """Nothing to give back."""

    async def _step(self, name: str, lease: str) -> None:
        self.asked.append((name, lease))
        await self.before.get(name, nothing)()


def raising(error: Exception) -> Hook:
    """Return a hook that raises."""

    async def hook() -> None:
        raise error

    return hook


def waiting(gate: asyncio.Event) -> Hook:
    """Return a hook that waits."""

    async def hook() -> None:
        await gate.wait()

    return hook
