"""Step-up: a service needs more for one call, a person agrees, and the client goes on without code of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from broker.client import Client, KeyIdentity, TokenRefused
from broker.client.aiohttp import authorizing
from broker.core.errors import Code
from broker.verifier import Verifier
from broker.verifier.aiohttp import VERIFIED, guard
from tests.support.broker_app import BrokerApp, Template, make_template, running_app
from tests.support.running_broker import free_port
from tests.support.team import decide

POLICY = """
version: 1
audiences:
  RESOURCE: {scopes: {"read": {tier: low}, "refund": {tier: high}, "delete": {tier: low}}}
tiers:
  low: {max_ttl: 15m}
  high: {max_ttl: 5m, approval: {approvers: finance, quorum: 1, expires: 10m}}
roles:
  planners:
    members: [{agent: planner}]
    allow: [{audience: RESOURCE, scopes: ["read", "refund", "delete"]}]
  finance:
    members: [{agent: carol}]
    allow: [{audience: broker, scopes: ["approvals:decide"]}]
  gateways:
    members: [{agent: gateway}]
    allow: [{audience: broker, scopes: ["revocations:read"]}]
  operators:
    members: [{agent: operator}]
    allow: [{audience: broker, scopes: ["agents:write"]}]
"""


@pytest.fixture(scope="module")
def port() -> int:
    """Where the service is."""
    return free_port()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, port: int) -> Template:
    """A broker that knows the service."""
    policy = POLICY.replace("RESOURCE", f"http://127.0.0.1:{port}/api")
    return make_template(tmp_path_factory.mktemp("up") / "broker", policy, ("planner", "carol", "gateway"))


@pytest.fixture
async def app(template: Template, tmp_path: Path) -> AsyncIterator[BrokerApp]:
    """Run it."""
    async with running_app(template, tmp_path / "broker") as running:
        yield running


@asynccontextmanager
async def service(app: BrokerApp, port: int) -> AsyncIterator[str]:
    """Run a service with a call for each scope; each tells which scopes it was shown."""
    resource = f"http://127.0.0.1:{port}/api"
    async with (
        Client(app.issuer, identity=KeyIdentity("gateway", app.keys["gateway"])) as own,
        Verifier(app.issuer, resource, credentials=own, poll=0.2) as verifier,
    ):

        async def told(request: web.Request) -> web.Response:
            return web.Response(text=" ".join(request[VERIFIED].claims.scopes))

        serving = web.Application()
        for scope in ("read", "refund", "delete"):
            serving.add_routes([web.post(f"/api/{scope}", guard(verifier, [scope])(told))])
        runner = web.AppRunner(serving)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield resource
        finally:
            await runner.cleanup()


async def test_a_client_steps_up_through_a_persons_approval(app: BrokerApp, port: int) -> None:
    """The request that needs more is answered in the end, with the approval of a person; others need none."""
    asked: asyncio.Queue[str] = asyncio.Queue()
    key = KeyIdentity("planner", app.keys["planner"])
    async with (
        service(app, port) as resource,
        Client(app.issuer, identity=key, on_pending=lambda one, _: asked.put_nowait(one)) as client,
    ):
        sending = authorizing(client, resource, ["read"], may_step_up=["refund"])
        async with aiohttp.ClientSession(middlewares=(sending,)) as session:
            async with session.post(f"{resource}/read", data=b"x") as reply:
                assert (reply.status, await reply.text()) == (200, "read")
            waiting = asyncio.ensure_future(session.post(f"{resource}/refund", data=b"x"))
            request = await asyncio.wait_for(asked.get(), 10)
            assert (await decide(app, "carol", request)).json["state"] == "approved"
            async with await asyncio.wait_for(waiting, 20) as reply:
                assert (reply.status, await reply.text()) == (200, "read refund")


async def test_a_persons_no_ends_the_step(app: BrokerApp, port: int) -> None:
    """The caller learns who said no; the next call with the lesser token works as before."""
    asked: asyncio.Queue[str] = asyncio.Queue()
    key = KeyIdentity("planner", app.keys["planner"])
    async with (
        service(app, port) as resource,
        Client(app.issuer, identity=key, dpop=True, on_pending=lambda one, _: asked.put_nowait(one)) as client,
    ):
        sending = authorizing(client, resource, ["read"], may_step_up=["refund"])
        async with aiohttp.ClientSession(middlewares=(sending,)) as session:
            waiting = asyncio.ensure_future(session.post(f"{resource}/refund", data=b"x"))
            await decide(app, "carol", await asyncio.wait_for(asked.get(), 10), "deny")
            with pytest.raises(TokenRefused) as refused:
                await asyncio.wait_for(waiting, 20)
            assert refused.value.code is Code.APPROVAL_DENIED
            async with session.post(f"{resource}/read", data=b"x") as reply:
                assert reply.status == 200


async def test_a_client_never_steps_up_to_what_was_not_named(app: BrokerApp, port: int) -> None:
    """A service cannot talk an agent into scopes that its caller did not name."""
    key = KeyIdentity("planner", app.keys["planner"])
    async with service(app, port) as resource, Client(app.issuer, identity=key) as client:
        sending = authorizing(client, resource, ["read"], may_step_up=["refund"])
        async with (
            aiohttp.ClientSession(middlewares=(sending,)) as session,
            session.post(f"{resource}/delete", data=b"x") as reply,
        ):
            assert reply.status == 403
    assert {entry["scope"] for entry in await app.entries("token.issued") if entry["agent"] == "planner"} == {"read"}
