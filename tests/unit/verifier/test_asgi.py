"""FastAPI and other ASGI applications behind a guard, on a real server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Annotated, Any

import aiohttp
import pytest
import uvicorn
from fastapi import Depends, FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
from starlette.applications import Starlette
from starlette.routing import Mount

from broker.client import DpopKey
from broker.core.errors import BrokerError, Code
from broker.verifier import IntrospectingVerifier, TokenVerifier, Verified, Verifier, metadata_url
from broker.verifier.asgi import Guard, Message, Receive, Scope, Send, needs
from tests.support.feeding_broker import FeedingBroker
from tests.support.until import until
from tests.support.virtual_time import VirtualTime

SCOPES = ("tickets:read", "tickets:write")
Token = Annotated[Verified, Depends(needs("tickets:read"))]
Writer = Annotated[Verified, Depends(needs("tickets:read", "tickets:write"))]


def application() -> FastAPI:
    """Some routes; what guards them is added by the test."""
    app = FastAPI()

    @app.get("/healthz")
    async def healthz() -> str:
        return "ok"

    @app.get("/plain/{name:path}")
    async def plain(name: str, request: Request) -> dict[str, Any]:
        verified: Verified = request.state.verified
        return {"name": name, "agent": verified.agent, "task": verified.task, "actors": verified.actors}

    @app.get("/read")
    async def read(token: Token) -> str:
        return token.agent

    @app.post("/write")
    async def write(token: Writer) -> str:
        return token.subject

    @app.get("/budget")
    async def budget() -> None:
        raise BrokerError(Code.BUDGET_USED_UP, "the task may do no more of it")

    @app.get("/stream")
    async def stream(token: Token) -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"one"
            await asyncio.Event().wait()

        return StreamingResponse(parts(), media_type="text/event-stream")

    @app.websocket("/socket")
    async def talk(websocket: WebSocket, token: Token) -> None:
        await websocket.accept()
        await websocket.send_text(token.agent)
        await websocket.receive_text()

    return app


class Site:
    """A running application."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session

    async def ask(
        self, path: str, token: str | None = None, method: str = "GET", **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        async with self.session.request(method, self.url + path, headers=headers) as answer:
            return answer.status, dict(answer.headers), await answer.json(content_type=None)


@pytest.fixture
async def broker(time: VirtualTime) -> AsyncIterator[FeedingBroker]:
    """A broker with a stream."""
    fake = FeedingBroker(lambda: time.wall)
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """Where the application listens."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.setblocking(False)
        yield made


@pytest.fixture
def audience(listening: socket.socket) -> str:
    """The URL of the application, which is its audience."""
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
async def verifier(
    broker: FeedingBroker, time: VirtualTime, own_token: Callable[[], Awaitable[str]], audience: str
) -> AsyncIterator[Verifier]:
    """Follows the stream."""
    made = Verifier(
        broker.url, audience, credentials=own_token, resource_metadata=metadata_url(audience), timing=time.timing()
    )
    async with made:
        await until(lambda: len(broker.subscribers) == 1)
        yield made


@pytest.fixture
async def site(verifier: Verifier, listening: socket.socket) -> AsyncIterator[Site]:
    """The guarded application, running."""
    app = application()
    app.add_middleware(Guard, verifier=verifier, public=("/healthz",), supported=SCOPES, name="Tickets")
    async for running in serving(app, listening):
        yield running


async def serving(app: Any, listening: socket.socket) -> AsyncIterator[Site]:  # noqa: ANN401 - any application
    """Run an application."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", ws="websockets-sansio"))
    running = asyncio.ensure_future(server.serve(sockets=[listening]))
    await until(lambda: server.started)
    async with aiohttp.ClientSession() as session:
        yield Site(f"http://127.0.0.1:{listening.getsockname()[1]}", session)
    server.should_exit = server.force_exit = True
    await running


def mint(broker: FeedingBroker, audience: str, *scopes: str, **claims: Any) -> str:  # noqa: ANN401 - claims
    """A token for the application."""
    return broker.mint(aud=audience, scopes=scopes or ("tickets:read",), **claims)


async def test_a_request_says_who_acts(site: Site, broker: FeedingBroker, audience: str) -> None:
    """The agent, its task, and whose hands the token went through."""
    token = mint(broker, audience, sub="planner", agents=("triage",), parents=("tok_0",))
    status, _, body = await site.ask("/plain/x", token)
    assert (status, body) == (200, {"name": "x", "agent": "triage", "task": "task_1", "actors": ["triage"]})


async def test_without_a_token_nothing_is_reached_but_what_is_public(site: Site, audience: str) -> None:
    """Routes that nobody thought of are guarded as well, and no spelling of a path gets around it."""
    assert (await site.ask("/healthz"))[0] == 200
    for path in ("/plain/x", "/nothing", "/healthz/", "/healthz/../read", "//healthz", "/docs", "/openapi.json"):
        status, headers, body = await site.ask(path)
        assert (status, body["code"]) == (401, "token_missing"), path
        assert metadata_url(audience) in headers["WWW-Authenticate"]
    status, _, document = await site.ask("/.well-known/oauth-protected-resource")
    assert (status, document["resource"], document["resource_name"]) == (200, audience, "Tickets")
    assert document["scopes_supported"] == list(SCOPES)


async def test_routes_ask_for_scopes(site: Site, broker: FeedingBroker, audience: str) -> None:
    """Whoever lacks one is told which, with the challenge for it."""
    token = mint(broker, audience)
    assert (await site.ask("/read", token))[::2] == (200, "triage")
    status, headers, body = await site.ask("/write", token, "POST")
    assert (status, body["code"]) == (403, "insufficient_scope")
    assert 'scope="tickets:read tickets:write"' in headers["WWW-Authenticate"]
    assert (await site.ask("/write", mint(broker, audience, *SCOPES), "POST"))[0] == 200


async def test_a_revoked_token_is_refused(site: Site, verifier: Verifier, broker: FeedingBroker, audience: str) -> None:
    """As soon as the rule has come."""
    token = mint(broker, audience)
    await broker.tell_rules([broker.make(agent="triage")])
    await until(lambda: verifier.epoch == 1)
    status, headers, body = await site.ask("/read", token)
    assert (status, body["code"]) == (401, "token_revoked")
    assert headers["Cache-Control"] == "no-store"


async def test_a_stale_view_is_told_as_such(
    site: Site, verifier: Verifier, broker: FeedingBroker, audience: str, time: VirtualTime
) -> None:
    """503 with Retry-After: the token may be good."""
    token = mint(broker, audience)
    await broker.stop()
    time.advance(11)
    status, headers, body = await site.ask("/read", token)
    assert (status, body["code"], headers["Retry-After"]) == (503, "view_stale", "1")


async def test_what_the_application_raises_is_answered(site: Site, broker: FeedingBroker, audience: str) -> None:
    """Budgets are told as in other frameworks."""
    status, _, body = await site.ask("/budget", mint(broker, audience))
    assert (status, body["code"]) == (409, "budget_used_up")


async def test_bound_tokens_need_proofs_for_the_path_as_it_was_sent(
    site: Site, broker: FeedingBroker, audience: str, time: VirtualTime
) -> None:
    """Each once, for this method and URL."""
    key = DpopKey.generate()
    token = mint(broker, audience, jkt=key.thumbprint)

    def proof(path: str, method: str = "GET") -> dict[str, str]:
        made = key.proof(method, audience + path, now=time.wall, access_token=token)
        return {"Authorization": f"DPoP {token}", "DPoP": made}

    for path in ("/plain/x", "/plain/a%20b%2Fc", "/plain/%C3%A9"):
        headers = proof(path)
        assert (await site.ask(path, **headers))[0] == 200, path
        assert (await site.ask(path, **headers))[2]["code"] == "proof_replayed"
    assert (await site.ask("/plain/y", **proof("/plain/x")))[2]["code"] == "proof_invalid"
    assert (await site.ask("/plain/x", token))[2]["code"] == "token_invalid"


async def test_a_stream_ends_with_its_token(site: Site, broker: FeedingBroker, audience: str) -> None:
    """It is cut, so that nobody takes it for complete; another one goes on."""
    mine = {"Authorization": f"Bearer {mint(broker, audience)}"}
    others = {"Authorization": f"Bearer {mint(broker, audience, client_id='other', sub='other')}"}
    async with (
        site.session.get(f"{site.url}/stream", headers=mine) as ended,
        site.session.get(f"{site.url}/stream", headers=others) as lasting,
    ):
        assert await ended.content.read(3) == await lasting.content.read(3) == b"one"
        await broker.tell_rules([broker.make(agent="triage")])
        with pytest.raises(aiohttp.ClientPayloadError):
            await ended.content.read()
        assert not lasting.content.at_eof()


async def test_a_websocket_ends_with_its_token(site: Site, broker: FeedingBroker, audience: str) -> None:
    """With the code for it, and the reason; without a token it never begins."""
    headers = {"Authorization": f"Bearer {mint(broker, audience)}"}
    async with site.session.ws_connect(f"{site.url}/socket", headers=headers) as talking:
        assert await talking.receive_str() == "triage"
        await broker.tell_rules([broker.make(agent="triage")])
        message = await talking.receive()
        assert (message.type, message.data, message.extra) == (aiohttp.WSMsgType.CLOSE, 1008, "token_revoked")
    for refused in (headers, {}):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await site.session.ws_connect(f"{site.url}/socket", headers=refused)
        assert caught.value.status in (401, 403)


async def test_a_guard_within_a_mount(verifier: Verifier, listening: socket.socket) -> None:
    """What is public is spelled as the application that is guarded spells it."""
    guarded: TokenVerifier = verifier
    outer = Starlette(routes=[Mount("/api", app=Guard(application(), guarded, public=("/healthz",)))])
    async for site in serving(outer, listening):
        assert (await site.ask("/api/healthz"))[0] == 200
        assert (await site.ask("/api/read"))[0] == 401


async def test_with_introspection(
    broker: FeedingBroker,
    time: VirtualTime,
    own_token: Callable[[], Awaitable[str]],
    audience: str,
    listening: socket.socket,
) -> None:
    """The same guard with the other verifier."""
    app = application()
    async with IntrospectingVerifier(broker.url, audience, credentials=own_token, timing=time.timing()) as asking:
        app.add_middleware(Guard, verifier=asking)
        async for site in serving(app, listening):
            token = mint(broker, audience)
            assert (await site.ask("/read", token))[0] == 200
            broker.make(agent="triage")
            assert (await site.ask("/read", token))[2]["code"] == "token_revoked"


async def test_lifespan_passes_and_a_server_that_tells_little_is_enough(
    broker: FeedingBroker, verifier: Verifier, audience: str
) -> None:
    """No raw path, no state: the path is encoded again for proofs."""
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
        seen.append(scope)

    async def never(*_: object) -> Any:  # noqa: ANN401 - ASGI
        raise AssertionError

    guard = Guard(app, verifier)
    await guard({"type": "lifespan"}, never, never)
    headers = [(b"authorization", f"Bearer {mint(broker, audience)}".encode())]
    await guard({"type": "http", "method": "GET", "path": "/a b", "headers": headers}, never, never)
    assert [scope["type"] for scope in seen] == ["lifespan", "http"]
    assert seen[1]["state"]["verified"].agent == "triage"


async def test_a_connection_of_a_kind_that_is_not_known_never_reaches_the_application(verifier: Verifier) -> None:
    """Only the application's own life cycle, which no client can send, passes without a token."""
    reached: list[str] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        reached.append(scope["type"])

    async def receive() -> Message:
        return {}

    async def send(_message: Message) -> None: ...

    guarded = Guard(app, verifier)
    await guarded({"type": "lifespan"}, receive, send)
    await guarded({"type": "webtransport", "path": "/", "headers": []}, receive, send)
    assert reached == ["lifespan"]
