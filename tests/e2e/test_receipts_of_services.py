"""Revoking at a real broker waits for services that use ``broker.verifier``, each a process of its own.

After an answer that says *applied*, none of them accepts the token any more: it has applied the rule, or was killed, or
cannot hear the broker and refuses by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from broker.client import Client, KeyIdentity
from tests.chaos.journal import Tail
from tests.support.road import Road
from tests.support.running_broker import TICKETS, RunningBroker

PATIENCE = 90.0
BOUND = 3 + 2 * 1
"""What the services of these tests tell the broker: ``max_staleness`` and twice ``leeway``."""

ALPHA, BETA = 0, 1
"""The tokens that all services judge, by their place."""


@dataclass
class Service:
    """A resource server, and what it has written down so far."""

    process: subprocess.Popen[bytes]
    tail: Tail
    judged: list[dict[str, Any]] = field(default_factory=list)

    def of(self, token: int) -> Sequence[dict[str, Any]]:
        """Return its judgements of a token."""
        self.judged += self.tail.new()
        return [each for each in self.judged if each["token"] == token]

    async def accepts(self, token: int) -> bool:
        """Whether it accepts a token now."""
        return [each["what"] for each in self.of(token)[-1:]] == ["accepted"]

    async def refuses(self, token: int, code: str) -> bool:
        """Whether it refuses a token for this reason now."""
        return [each.get("code") for each in self.of(token)[-1:]] == [code]

    def accepted_after(self, token: int, moment: float) -> list[dict[str, Any]]:
        """Return when it accepted a token that it began to judge after a moment."""
        return [each for each in self.of(token) if each["what"] == "accepted" and each["began"] > moment]

    def kill(self) -> None:
        """End it without any warning."""
        self.process.kill()
        self.process.wait()


@dataclass
class Site:
    """A broker, an operator's session with it, and services that judge the same tokens."""

    broker: RunningBroker
    key: Path
    tokens: Sequence[str]
    operator: str
    http: aiohttp.ClientSession
    services: list[Service] = field(default_factory=list)

    async def serve(self, name: str, through: int) -> Service:
        """Start a service, which accepts the tokens, and is known, on return."""
        folder = self.broker.folder
        journal = folder / f"{name}.jsonl"
        arguments = (self.broker.issuer, str(through), str(self.key), name, str(journal), *self.tokens)
        with (folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.service_process", *arguments], stdout=log, stderr=log
            )
        service = Service(process, Tail(journal))
        self.services.append(service)
        await until(partial(service.accepts, BETA), f"{name} accepts")
        await until(partial(self.knows, name), f"{name} is known")
        return service

    async def knows(self, name: str, **members: object) -> bool:
        """Whether the broker lists a service, with these members."""
        there = (await self._call("GET", "verifiers"))["verifiers"]
        return any({"verifier": name, **members}.items() <= each.items() for each in there)

    async def revoke(self, agent: str, wait: float) -> tuple[dict[str, Any], float]:
        """Revoke an agent's tokens; return how far the rule got after so long at most, and when that was answered."""
        order = {"selector": {"agent": agent}, "reason": "test", "wait": wait}
        return (await self._call("POST", "revocations", order))["propagation"], time.monotonic()

    async def receipt(self, rule: int) -> tuple[dict[str, Any], float]:
        """Return how far a rule has got once it is applied, and when that was answered."""
        deadline = time.monotonic() + PATIENCE
        while not (seen := (await self._call("GET", f"revocations/{rule}"))["propagation"])["applied"]:
            assert time.monotonic() < deadline, seen
            await asyncio.sleep(0.02)
        return seen, time.monotonic()

    def end(self) -> None:
        """Kill all services."""
        for service in self.services:
            service.kill()

    async def _call(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 - JSON
        headers = {"Authorization": f"Bearer {self.operator}", "Idempotency-Key": str(uuid.uuid4())}
        url = f"{self.broker.issuer}/v1/{path}"
        async with self.http.request(method, url, json=body, headers=headers) as reply:
            assert reply.ok, await reply.text()
            return await reply.json()


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + PATIENCE
    while not await holds():
        assert time.monotonic() < deadline, f"not in time: {what}"
        await asyncio.sleep(0.02)


@pytest.fixture(params=[1, 2], ids=["alone", "workers"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningBroker]:
    """A running broker, alone or with two workers; whatever runs at the end is killed."""
    running = RunningBroker(tmp_path, workers=request.param)
    running.initialise()
    running.start()
    yield running
    running.kill()


@pytest.fixture
async def site(broker: RunningBroker) -> AsyncIterator[Site]:
    """A site whose services are killed at the end."""
    keys = {name: broker.agent(name) for name in ("alpha", "beta", "gateway")} | {
        "operator": broker.home / "operator.pem"
    }
    async with contextlib.AsyncExitStack() as stack:

        async def token(name: str, audience: str, *scopes: str) -> str:
            identity = KeyIdentity.from_file(name, keys[name])
            client = await stack.enter_async_context(Client(broker.issuer, identity=identity))
            return (await client.token(audience, scopes)).access_token

        tokens = [await token(name, TICKETS, "tickets:read") for name in ("alpha", "beta")]
        operator = await token(
            "operator", f"{broker.issuer}/v1", "revocations:write", "revocations:read", "operator:read"
        )
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE)))
        made = Site(broker, keys["gateway"], tokens, operator, http)
        stack.callback(made.end)
        yield made


@pytest.mark.timeout(400)
async def test_applied_means_that_no_service_accepts(site: Site) -> None:
    """Since all have said so; or those who have not were killed or cut off, and were waited for as long as needed."""
    async with Road([site.broker.port]) as road:
        there, killed = [await site.serve(name, site.broker.port) for name in ("there", "killed")]
        away = await site.serve("away", road.port)
        seen, answered = await site.revoke("alpha", wait=50)
        assert (seen["applied"], seen["waiting_for"], seen["refusing"]) == (True, [], [])
        assert (seen["verifiers"], seen["verifiers_applied"]) == (3, 3)
        for service in (there, killed, away):
            await until(partial(service.refuses, ALPHA, "token_revoked"), "it refuses")
            assert await service.accepts(BETA)
            assert service.accepted_after(ALPHA, answered) == []

        killed.kill()
        road.block()
        began = time.monotonic()
        early, _ = await site.revoke("beta", wait=0.5)
        assert (early["applied"], early["refusing"]) == (False, [])
        assert {"gateway#killed", "gateway#away"} <= set(early["waiting_for"])
        late, answered = await site.receipt(2)
        assert time.monotonic() - began >= BOUND
        assert (late["waiting_for"], sorted(late["refusing"])) == ([], ["gateway#away", "gateway#killed"])
        assert (late["verifiers"], late["verifiers_applied"]) == (3, 1)
        assert await away.refuses(BETA, "view_stale")
        assert away.of(BETA)[-1]["ended"] < answered

        road.mend()
        for service in (there, away):
            await until(partial(service.refuses, BETA, "token_revoked"), "it refuses")
            assert service.accepted_after(BETA, answered) == []
        await until(partial(site.knows, "away", epoch=2, lag=0), "it has caught up")
    assert site.broker.stop() == 0
    site.broker.command("ledger", "verify")
