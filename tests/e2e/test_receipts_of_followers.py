"""Revoking waits for verifiers that follow the feed of a real broker process, and names who is silent."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from broker.core.jwk import KeySet, parse_jwks
from tests.support.event_stream import READ, follow
from tests.support.running_broker import RunningBroker

PATIENCE = aiohttp.ClientTimeout(120)
SCOPES = ("revocations:read", "revocations:write", "operator:read")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    """A running broker; whatever runs at the end is killed."""
    running = RunningBroker(tmp_path)
    running.initialise()
    running.start()
    yield running
    running.kill()


@dataclass(frozen=True)
class Line:
    """What everybody calls the broker with."""

    http: aiohttp.ClientSession
    issuer: str
    token: str
    keys: KeySet

    async def post(self, path: str, body: object) -> Any:  # noqa: ANN401 - JSON
        """Return the answer to a ``POST``; None if it is empty."""
        headers = {"Authorization": f"Bearer {self.token}", "Idempotency-Key": str(uuid.uuid4())}
        async with self.http.post(f"{self.issuer}/v1/{path}", json=body, headers=headers, timeout=PATIENCE) as reply:
            assert reply.ok, await reply.text()
            return None if reply.status == 204 else await reply.json()

    async def revoke(self, wait: float) -> Any:  # noqa: ANN401 - JSON
        """Make a rule, and return how far it has got after so many seconds at most."""
        order = {"selector": {"agent": "alpha"}, "reason": "test", "wait": wait}
        return (await self.post("revocations", order))["propagation"]


@pytest.fixture
async def line(broker: RunningBroker) -> AsyncIterator[Line]:
    """Return a line to the broker, with an operator's token."""
    key = ("--agent", "operator", "--key", str(broker.home / "operator.pem"))
    scopes = (word for scope in SCOPES for word in ("--scope", scope))
    token = broker.ask("token", *key, "--audience", f"{broker.issuer}/v1", *scopes)["access_token"]
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{broker.issuer}/oauth2/jwks.json") as reply:
            keys = parse_jwks(await reply.read())
        yield Line(http, broker.issuer, token, keys)


class Follower:
    """A verifier: verifies what the stream says, and repeats epoch and mark, for as long as ``speaks`` is true."""

    def __init__(self, line: Line, name: str, *, max_age: float) -> None:
        self._line = line
        self._name = name
        self._max_age = max_age
        self.speaks = True
        self.epoch = -1

    async def run(self) -> None:
        """Follow the stream."""
        line = self._line
        async with follow(line.http, line.issuer, line.token, line.keys, now=time.time()) as reader:
            while (event := await reader.event()) is not None:
                told = READ[event.name](event.data, line.keys, issuer=line.issuer, now=time.time())
                if told.epoch > self.epoch:
                    if self.speaks:
                        said = {"epoch": told.epoch, "mark": told.mark, "max_age": self._max_age}
                        await line.post("revocations/acks", {"verifier": self._name, **said})
                    self.epoch = told.epoch


async def until(holds: Callable[[], object], *tasks: asyncio.Task[None]) -> None:
    """Wait until something holds that these tasks bring about."""
    async with asyncio.timeout(60):
        while not holds():
            for task in tasks:
                if task.done():
                    await task
            await asyncio.sleep(0.02)


async def test_a_rule_is_applied_when_everybody_who_follows_has_said_so(broker: RunningBroker, line: Line) -> None:
    """Long before the time to wait is over, by what the stream told them; and the command says the same."""
    followers = [Follower(line, f"gw-{place}", max_age=600) for place in range(3)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each.run()) for each in followers]
        await until(lambda: all(each.epoch == 0 for each in followers), *tasks)
        seen = await line.revoke(wait=50)
        assert (seen["applied"], seen["waiting_for"], seen["refusing"]) == (True, [], [])
        assert (seen["replicas"], seen["replicas_applied"]) == (1, 1)
        assert (seen["verifiers"], seen["verifiers_applied"]) == (3, 3)
        assert seen["slowest_ms"] < 50_000
        order = ("revoke", "--agent", "beta", "--reason", "test", "--wait", "50")
        told = await asyncio.to_thread(broker.command, *order)
        assert "applied by:  1 replica and 3 verifiers" in told
        for task in tasks:
            task.cancel()
    assert broker.stop() == 0
    broker.command("ledger", "verify")


async def test_who_is_silent_is_waited_for_and_then_known_to_refuse(line: Line) -> None:
    """A verifier that hangs accepts nothing once its own bound is over, and is named as such."""
    quick, silent = Follower(line, "quick", max_age=600), Follower(line, "silent", max_age=5)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each.run()) for each in (quick, silent)]
        await until(lambda: quick.epoch == silent.epoch == 0, *tasks)
        silent.speaks = False
        early = await line.revoke(wait=0)
        assert early["applied"] is False
        assert "operator#silent" in early["waiting_for"]
        await until(lambda: quick.epoch == silent.epoch == 1, *tasks)
        late = await line.revoke(wait=50)
        assert (late["applied"], late["waiting_for"], late["refusing"]) == (True, [], ["operator#silent"])
        assert (late["verifiers"], late["verifiers_applied"]) == (2, 1)
        for task in tasks:
            task.cancel()
