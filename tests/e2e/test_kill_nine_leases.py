"""``kill -9`` of the broker between intent, fetch and seal: OpenBao never holds a lease that the broker does not know.

A proxy in front of OpenBao sees the broker's requests, and kills the broker at exactly the moment that is to be tested.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.support.openbao import OpenBao
from tests.support.postgres import Postgres
from tests.support.running_broker import RunningBroker

KILLS = int(os.environ.get("LEASE_KILLS", "5"))
"""How often the broker is killed at each of the moments."""

CREDS = "/v1/database/creds/orders-ro"
LOST = (aiohttp.ClientError, asyncio.TimeoutError, OSError)
POLICY = """
version: 1
tiers: {read: {max_ttl: 15m}}
secrets:
  orders: {backend: vault, tier: read, path: database/creds/orders-ro}
roles:
  workers:
    members: [{agent: alpha}]
    allow:
      - {secret: orders}
      - {audience: broker, scopes: ["leases:take", "leases:read"]}
    limits: {tokens_per_minute: 100000}
  operators:
    members: [{agent: operator}]
    allow: [{audience: broker, scopes: ["operator:read", "revocations:write", "agents:write"]}]
"""


@dataclass
class Proxy:
    """Passes requests on. At the moment named by ``strike`` it kills the broker, once."""

    upstream: str
    broker: RunningBroker
    strike: str | None = None
    struck: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass on one request."""
        body = await request.read()
        is_take = request.path == CREDS
        if is_take:
            self._strike("before the fetch")
        headers = {name: value for name, value in request.headers.items() if name.lower().startswith("x-vault")}
        async with (
            aiohttp.ClientSession() as session,
            session.request(request.method, self.upstream + request.path_qs, data=body, headers=headers) as answer,
        ):
            text = await answer.read()
        if is_take:
            self._strike("after the fetch")
        response = web.Response(body=text, status=answer.status, content_type="application/json")
        if is_take:
            pause = random.uniform(0.0, 0.006)
            asyncio.get_running_loop().call_later(pause, self._strike, "around the seal")
        return response

    def _strike(self, moment: str) -> None:
        if self.strike == moment:
            self.strike = None
            self.broker.kill()
            self.struck.set()


@asynccontextmanager
async def serving(proxy: Proxy, port: int) -> AsyncIterator[None]:
    """Run the proxy."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def stopped_at_the_end(broker: RunningBroker) -> AsyncIterator[None]:
    """Leave no process behind, whatever happens."""
    try:
        yield
    except BaseException:
        broker.kill()
        raise
    assert broker.stop() == 0


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[OpenBao, Postgres]]:
    """Start OpenBao, and the database whose credentials it leases."""
    with Postgres() as postgres, OpenBao() as bao:
        bao.with_broker_policy()
        bao.with_database(postgres)
        yield bao, postgres


def _assertion(key: EllipticCurvePrivateKey, issuer: str) -> str:
    now = int(time.time())
    claims = {"iss": "alpha", "sub": "alpha", "aud": issuer, "iat": now, "exp": now + 60, "jti": str(uuid.uuid4())}
    return jwt.encode(claims, key, algorithm="ES256")


async def _take(session: aiohttp.ClientSession, issuer: str, key: EllipticCurvePrivateKey) -> None:
    """Take one lease. The answer is of no interest: what matters is what is left behind."""
    form = {
        "grant_type": "client_credentials",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": _assertion(key, issuer),
        "resource": f"{issuer}/v1",
        "scope": "leases:take",
    }
    with contextlib.suppress(*LOST):
        async with session.post(f"{issuer}/oauth2/token", data=form) as response:
            token = (await response.json())["access_token"]
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": str(uuid.uuid4())}
        async with session.post(f"{issuer}/v1/leases", json={"secret": "orders"}, headers=headers) as response:
            await response.read()


def _rows(ledger: Path) -> list[tuple[str, str]]:
    """Return state and handle of every lease."""
    with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as connection:
        return list(connection.execute("SELECT status, handle FROM leases"))


async def _settled(ledger: Path) -> None:
    """Wait until nothing is open and nothing is to be revoked."""
    for _ in range(400):
        if all(status not in {"opening", "retrying"} for status, _ in _rows(ledger)):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"not settled: {[status for status, _ in _rows(ledger)]}")


async def _same(bao: OpenBao, ledger: Path, before: set[str]) -> None:
    """Wait until OpenBao holds what the broker calls live: what a revoked token had read, it ends in its own time."""
    held, live = set[str](), {""}
    for _ in range(400):
        held = set(await asyncio.to_thread(bao.leases, "database/creds/orders-ro")) - before
        handles = [json.loads(handle) for status, handle in _rows(ledger) if status == "live"]
        live = {str(handle["lease_id"]).rpartition("/")[2] for handle in handles}
        if held == live:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"OpenBao holds {sorted(held)}, and the broker knows {sorted(live)}")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("moment", ["before the fetch", "after the fetch", "around the seal"])
async def test_no_lease_is_left_that_nobody_knows(
    tmp_path: Path, servers: tuple[OpenBao, Postgres], moment: str
) -> None:
    """After each kill and start: what OpenBao holds is what the broker calls live, and nothing else."""
    bao, _ = servers
    broker = RunningBroker(tmp_path, policy=POLICY)
    broker.initialise()
    port = broker.port + 1
    (broker.home / "bao-token").write_text(bao.token("broker"))
    with broker.config.open("a") as file:
        file.write(
            f'\n[backends.vault]\naddress = "http://127.0.0.1:{port}"\n'
            'sign_in = {method = "token", token_file = "bao-token"}\n'
        )
    broker.start()
    loaded = load_pem_private_key(broker.agent("alpha").read_bytes(), password=None)
    assert isinstance(loaded, EllipticCurvePrivateKey)
    proxy = Proxy(bao.url, broker)
    before = set(bao.leases("database/creds/orders-ro"))
    async with stopped_at_the_end(broker), serving(proxy, port), aiohttp.ClientSession() as session:
        for _ in range(KILLS):
            proxy.struck.clear()
            proxy.strike = moment
            taking = [asyncio.ensure_future(_take(session, broker.issuer, loaded)) for _ in range(3)]
            await asyncio.wait_for(proxy.struck.wait(), 20)
            await asyncio.gather(*taking)
            await asyncio.to_thread(broker.start)
            await _settled(broker.ledger)
            await _same(bao, broker.ledger, before)
    broker.command("ledger", "verify", "--file", str(broker.ledger))
    assert len(_rows(broker.ledger)) >= KILLS
