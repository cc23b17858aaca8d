"""Requests of an aiohttp session carry tokens to their resource, and to nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from broker.client import Client, KeyIdentity
from broker.client.aiohttp import authorizing
from tests.support.fake_broker import FakeBroker
from tests.support.virtual_time import VirtualTime

KEY = ec.generate_private_key(ec.SECP256R1())


class Resource:
    """Records what it gets, and answers as the test says."""

    def __init__(self) -> None:
        self.seen: list[tuple[str | None, bytes]] = []
        self.answer: Callable[[web.Request], web.Response] = lambda _request: web.Response()
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        self.seen.append((request.headers.get("Authorization"), await request.read()))
        return self.answer(request)


@pytest.fixture
async def resource() -> AsyncIterator[Resource]:
    """A running resource server."""
    made = Resource()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def broker() -> AsyncIterator[FakeBroker]:
    """A running broker."""
    time = VirtualTime()
    made = FakeBroker(lambda: time.wall)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def client(broker: FakeBroker) -> AsyncIterator[Client]:
    """A client of that broker."""
    async with Client(broker.url, identity=KeyIdentity("triage", KEY), timing=VirtualTime().timing()) as made:
        yield made


@pytest.fixture
async def session(client: Client, resource: Resource) -> AsyncIterator[aiohttp.ClientSession]:
    """A session that sends tokens to the resource."""
    async with aiohttp.ClientSession(middlewares=(authorizing(client, resource.url, "tickets:read"),)) as made:
        yield made


async def test_every_request_carries_the_token(session: aiohttp.ClientSession, resource: Resource) -> None:
    """The same one while it is good."""
    for _ in range(2):
        async with session.get(f"{resource.url}/a") as response:
            assert response.status == 200
    (first, _), (second, _) = resource.seen
    assert first is not None
    assert first.startswith("Bearer ")
    assert first == second


async def test_a_revoked_token_is_replaced_and_the_request_repeated(
    session: aiohttp.ClientSession, resource: Resource
) -> None:
    """Once, with its body."""
    resource.answer = lambda _request: web.Response(status=401 if len(resource.seen) == 1 else 200)
    async with session.post(f"{resource.url}/a", json={"n": 1}) as response:
        assert response.status == 200
    (first, body), (second, again) = resource.seen
    assert first != second
    assert body == again == b'{"n": 1}'


async def test_a_resource_that_never_accepts_is_asked_twice_only(
    session: aiohttp.ClientSession, resource: Resource
) -> None:
    """The refusal reaches the caller."""
    resource.answer = lambda _request: web.Response(status=401)
    async with session.get(f"{resource.url}/a") as response:
        assert response.status == 401
    assert len(resource.seen) == 2


async def test_a_body_that_can_be_sent_once_is_not_repeated(session: aiohttp.ClientSession, resource: Resource) -> None:
    """Half a request is worse than a refusal."""

    async def stream() -> AsyncIterator[bytes]:
        yield b"once"

    resource.answer = lambda _request: web.Response(status=401)
    async with session.post(f"{resource.url}/a", data=stream()) as response:
        assert response.status == 401
    assert [body for _, body in resource.seen] == [b"once"]


async def test_another_origin_gets_no_token(session: aiohttp.ClientSession, resource: Resource) -> None:
    """Neither when it is asked directly nor when the resource redirects there."""
    other = Resource()
    await other.start()
    resource.answer = lambda _request: web.Response(status=302, headers={"Location": f"{other.url}/stolen"})
    async with session.get(f"{resource.url}/a") as response:
        assert response.status == 200
    async with session.get(f"{other.url}/direct") as response:
        assert response.status == 200
    assert [authorization for authorization, _ in other.seen] == [None, None]
    await other.stop()


async def test_a_resources_nonce_is_put_into_the_proof(broker: FakeBroker, resource: Resource) -> None:
    """The token is kept: only the proof was not what the resource wanted."""

    def demand(request: web.Request) -> web.Response:
        if len(resource.seen) > 1:
            return web.Response()
        headers = {"WWW-Authenticate": 'DPoP error="use_dpop_nonce"', "DPoP-Nonce": "n-1"}
        return web.Response(status=401, headers=headers)

    resource.answer = demand
    identity = KeyIdentity("triage", KEY)
    async with (
        Client(broker.url, identity=identity, dpop=True, timing=VirtualTime().timing()) as client,
        aiohttp.ClientSession(middlewares=(authorizing(client, resource.url),)) as session,
        session.get(f"{resource.url}/a") as response,
    ):
        assert response.status == 200
    (first, _), (second, _) = resource.seen
    assert first == second
    assert len(broker.forms) == 1
