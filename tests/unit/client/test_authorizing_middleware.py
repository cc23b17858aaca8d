"""Requests of an aiohttp session carry tokens to their resource, and to nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

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


def refusing(*answers: tuple[int, str | None, str | None]) -> Callable[[web.Request], web.Response]:
    """Answer with these one after the other (status, ``WWW-Authenticate``, ``DPoP-Nonce``), and then with 200."""
    left = iter(answers)

    def answer(_request: web.Request) -> web.Response:
        status, challenge, nonce = next(left, (200, None, None))
        given = {"WWW-Authenticate": challenge, "DPoP-Nonce": nonce}
        return web.Response(status=status, headers={name: value for name, value in given.items() if value is not None})

    return answer


def stepping_up(client: Client, resource: Resource, may_step_up: Sequence[str] = ()) -> aiohttp.ClientSession:
    """A session that starts with ``tickets:read``."""
    sending = authorizing(client, resource.url, "tickets:read", may_step_up=may_step_up)
    return aiohttp.ClientSession(middlewares=(sending,))


NEEDS_CLOSE = 'Bearer error="insufficient_scope", scope="tickets:close"'
NEEDS_PERSON = 'Bearer error="insufficient_user_authentication", scope="tickets:close", acr_values="person"'


@pytest.mark.parametrize(("status", "challenge"), [(403, NEEDS_CLOSE), (401, NEEDS_PERSON)])
async def test_a_service_that_needs_more_gets_it_once(
    client: Client, resource: Resource, broker: FakeBroker, status: int, challenge: str
) -> None:
    """With the body; the token has what the service named and what was there; the next request starts with less."""
    resource.answer = refusing((status, challenge, None))
    async with stepping_up(client, resource, may_step_up=["tickets:close"]) as session:
        async with session.post(f"{resource.url}/a", data=b"x") as response:
            assert response.status == 200
        async with session.post(f"{resource.url}/b", data=b"y") as response:
            assert response.status == 200
    assert [form["scope"] for form in broker.forms] == ["tickets:read", "tickets:close tickets:read"]
    assert {form["resource"] for form in broker.forms} == {resource.url}
    lesser, greater, again = (authorization for authorization, _ in resource.seen)
    assert lesser == again != greater
    assert [body for _, body in resource.seen] == [b"x", b"x", b"y"]


@pytest.mark.parametrize("may_step_up", [(), ("tickets:close",)])
@pytest.mark.parametrize(
    "scope",
    ["tickets:delete", "tickets:close tickets:delete", "TICKETS:CLOSE2", "tickets:cl\u00f6se", "tickets:closed"],
)
async def test_scopes_that_the_caller_did_not_name_are_never_asked_for(
    client: Client, resource: Resource, broker: FakeBroker, may_step_up: Sequence[str], scope: str
) -> None:
    """Not with a part of them either: the refusal is the caller's to deal with."""
    for status, error in ((403, "insufficient_scope"), (401, "insufficient_user_authentication")):
        resource.answer = refusing((status, f'Bearer error="{error}", scope="{scope}"', None))
        async with stepping_up(client, resource, may_step_up) as session, session.get(f"{resource.url}/a") as response:
            assert response.status == status
    assert len(resource.seen) == 2
    assert {form["scope"] for form in broker.forms} == {"tickets:read"}


@pytest.mark.parametrize(
    "challenge",
    [
        None,
        "Bearer",
        'Bearer scope="tickets:close"',
        'Basic error="insufficient_scope", scope="tickets:close"',
        'Bearer error="insufficient_scope"',
        'Bearer error="insufficient_scope", scope="tickets:read"',
        'Bearer error="invalid_token", scope="tickets:close"',
        'Bearer error_description="error=\\"insufficient_scope\\", scope=\\"tickets:close\\""',
        'Bearer error="insufficient_scope", scope="tickets:close", scope="tickets:read"',
        'error="insufficient_scope", scope="tickets:close"',
    ],
)
async def test_other_refusals_do_not_step_up(
    client: Client, resource: Resource, broker: FakeBroker, challenge: str | None
) -> None:
    """A 403 is not repeated unless the service says what it lacks, in so many words, and it is not there yet."""
    resource.answer = refusing((403, challenge, None))
    async with (
        stepping_up(client, resource, may_step_up=["tickets:close"]) as session,
        session.get(f"{resource.url}/a") as response,
    ):
        assert response.status == 403
    assert (len(resource.seen), len(broker.forms)) == (1, 1)


async def test_a_service_that_always_wants_more_is_no_loop(
    client: Client, resource: Resource, broker: FakeBroker
) -> None:
    """One step for one request, whatever it says then."""
    more = 'Bearer error="insufficient_scope", scope="{}"'
    resource.answer = refusing(*[(403, more.format(scope), None) for scope in ("a", "a b", "a b c")])
    async with (
        stepping_up(client, resource, may_step_up=["a", "b", "c"]) as session,
        session.get(f"{resource.url}/a") as response,
    ):
        assert response.status == 403
    assert (len(resource.seen), len(broker.forms)) == (2, 2)


async def test_a_greater_token_that_is_refused_is_not_asked_for_again(
    client: Client, resource: Resource, broker: FakeBroker
) -> None:
    """A person may have agreed to it a moment ago: nobody is asked twice for one request."""
    resource.answer = refusing((403, NEEDS_CLOSE, None), (401, "Bearer", None))
    async with (
        stepping_up(client, resource, may_step_up=["tickets:close"]) as session,
        session.get(f"{resource.url}/a") as response,
    ):
        assert response.status == 401
    assert len(broker.forms) == 2


async def test_a_nonce_a_dead_token_and_more_scopes_in_one_request(broker: FakeBroker, resource: Resource) -> None:
    """Each is dealt with, each once."""
    resource.answer = refusing(
        (401, 'DPoP algs="ES256", error="use_dpop_nonce"', "n-1"),
        (401, 'Bearer error="invalid_token"', None),
        (403, f'{NEEDS_CLOSE}, DPoP error="insufficient_scope", scope="tickets:close"', None),
    )
    identity = KeyIdentity("triage", KEY)
    async with (
        Client(broker.url, identity=identity, dpop=True, timing=VirtualTime().timing()) as client,
        stepping_up(client, resource, may_step_up=["tickets:close"]) as session,
        session.get(f"{resource.url}/a") as response,
    ):
        assert response.status == 200
    assert [form["scope"] for form in broker.forms] == ["tickets:read"] * 2 + ["tickets:close tickets:read"]
    assert len(resource.seen) == 4


async def test_a_stream_is_not_stepped_up(client: Client, resource: Resource, broker: FakeBroker) -> None:
    """What can be sent once only is not sent again, and nobody is asked for a token that nothing could use."""

    async def stream() -> AsyncIterator[bytes]:
        yield b"once"

    resource.answer = refusing((403, NEEDS_CLOSE, None))
    async with (
        stepping_up(client, resource, may_step_up=["tickets:close"]) as session,
        session.post(f"{resource.url}/a", data=stream()) as response,
    ):
        assert response.status == 403
    assert len(broker.forms) == 1
