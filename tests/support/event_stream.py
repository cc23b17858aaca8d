"""One who follows the feed: reads events from a broker's stream, and verifies what they say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from broker.core.feed import Heartbeat, RuleStatement, verify_heartbeat, verify_rule
from broker.core.jwk import KeySet
from broker.core.snapshot import MAX_SNAPSHOT, Snapshot, verify_snapshot

STREAM = "/v1/revocations/stream"
PATIENCE = 30.0
READ: Mapping[str, Callable[..., Any]] = {
    "rule": verify_rule,
    "heartbeat": verify_heartbeat,
    "snapshot": verify_snapshot,
}


@dataclass(frozen=True)
class Event:
    """One event as it was sent."""

    name: str
    data: str
    id: str | None = None


class EventReader:
    """Reads the events of one stream; ``follow`` makes one."""

    def __init__(self, response: aiohttp.ClientResponse, keys: KeySet, issuer: str, now: float) -> None:
        self.response = response
        self._keys, self._issuer, self._now = keys, issuer, now

    async def event(self) -> Event | None:
        """Return the next event; None once the stream has ended."""
        members: dict[str, str] = {}
        while True:
            try:
                line = await asyncio.wait_for(self.response.content.readline(), PATIENCE)
            except aiohttp.ClientPayloadError:
                return None
            if not line:
                return None
            text = line.decode().rstrip("\n")
            if text:
                name, _, value = text.partition(": ")
                members[name] = value
            elif "data" in members:
                return Event(members["event"], members["data"], members.get("id"))
            else:
                members = {}

    async def next(self, *, beats: bool = False) -> Event | None:
        """Return the next event, heartbeats passed over unless ``beats``."""
        while (event := await self.event()) is not None:
            if beats or event.name != "heartbeat":
                return event
        return None

    def read(self, event: Event | None) -> Any:  # noqa: ANN401 - a statement of one of three kinds
        """Return what an event says, verified."""
        assert event is not None
        return READ[event.name](event.data, self._keys, issuer=self._issuer, now=self._now)

    async def rule(self) -> RuleStatement:
        """Return the next event, which must be a rule."""
        read = self.read(await self.next())
        assert isinstance(read, RuleStatement)
        return read

    async def heartbeat(self) -> Heartbeat:
        """Return the next event, which must be a heartbeat."""
        read = self.read(await self.event())
        assert isinstance(read, Heartbeat)
        return read

    async def snapshot(self) -> Snapshot:
        """Return the next event, which must be a snapshot."""
        read = self.read(await self.next())
        assert isinstance(read, Snapshot)
        return read


@asynccontextmanager
async def follow(
    http: aiohttp.ClientSession,
    url: str,
    token: str,
    keys: KeySet,
    *,
    now: float,
    after: str | None = None,
    query: str = "",
    issuer: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[EventReader]:
    """Follow the feed at a URL, from an epoch if ``after`` is given; ``issuer`` is whose it must be, if another's."""
    sent = {"Authorization": f"Bearer {token}", **(headers or {})}
    sent |= {} if after is None else {"Last-Event-ID": after}
    async with http.get(
        url + STREAM + query, headers=sent, read_bufsize=2 * MAX_SNAPSHOT, timeout=aiohttp.ClientTimeout(None)
    ) as response:
        yield EventReader(response, keys, issuer or url, now)
