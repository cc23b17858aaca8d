"""Guarding an ASGI application (Starlette, FastAPI, Quart, …): a middleware for all of it, and scopes at one route."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from broker.core.errors import BrokerError
from broker.verifier.challenge import answer, metadata_document, metadata_path, problem
from broker.verifier.token_verifier import LacksScope, TokenVerifier, Verified, require_scopes, scope_names
from broker.verifier.verifier import Verifier
from broker.verifier.watching import Hanging

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

STATE: Final = "verified"
"""``request.state.verified`` is the :class:`~broker.verifier.Verified` token of a request (``scope["state"]``)."""

POLICY_VIOLATION: Final = 1008
"""How a WebSocket is closed whose token is good no more (RFC 6455, 7.4.1)."""

_SAFE: Final = "/~!$&'()*+,;=:@"  # what may stand in a path as it is (RFC 3986, 3.3)


class Guard:
    """A middleware: the application only hears of requests and WebSockets with a good token that has all of ``scopes``.

    Everybody else is answered as by :func:`broker.verifier.answer`; so is a ``BrokerError`` that the application raises
    before it answers. ``public`` are paths that anybody may use, as the application's own routes spell them; the
    resource's metadata (RFC 9728), for which ``name`` is what people call the resource, is answered here.

    With a :class:`~broker.verifier.Verifier`, an answer that goes on after its first part, and a WebSocket, end as soon
    as the token is good no more: what sends them is cancelled, and the connection is cut or closed.
    """

    def __init__(
        self,
        app: Application,
        verifier: TokenVerifier,
        scopes: Iterable[str] = (),
        *,
        public: Collection[str] = (),
        supported: Iterable[str] = (),
        name: str | None = None,
    ) -> None:
        """``supported`` are the scopes that the metadata names. The verifier must be started with the application."""
        self._app = app
        self._verifier = verifier
        self._scopes = scope_names(scopes)
        self._public = frozenset(public)
        self._metadata = metadata_document(verifier.issuer, verifier.audience, scope_names(supported), name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it."""
        if scope["type"] == "lifespan" or _route(scope) in self._public:
            await self._app(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == metadata_path(self._verifier.audience):
            await _respond(send, HTTPStatus.OK, _METADATA_HEADERS, self._metadata)
        else:
            conversation = _Conversation(scope, send)
            try:
                await self._serve(scope, receive, conversation)
            except BrokerError as error:
                needed = error.needed if isinstance(error, LacksScope) else self._scopes
                await conversation.refuse(error, needed, self._verifier.resource_metadata)

    async def _serve(self, scope: Scope, receive: Receive, conversation: _Conversation) -> None:
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        method = scope.get("method", "GET")  # a WebSocket begins as a GET
        verified = await self._verifier.verify_request(headers, method, _raw_path(scope), scopes=self._scopes)
        scope = {**scope, "state": {**scope.get("state", {}), STATE: verified}}
        async with Hanging() as hanging:
            if isinstance(self._verifier, Verifier):
                conversation.goes_on = partial(hanging.on, partial(self._verifier.watch, verified))
            await self._app(scope, receive, conversation.send)


class _Conversation:
    """What was sent already, and whether it goes on."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.goes_on: Callable[[], None] = lambda: None
        self._scope = scope
        self._send = send
        self._begun = False

    async def send(self, message: Message) -> None:
        """Send for the application."""
        if message["type"] == "websocket.accept" or message.get("more_body", False):
            self.goes_on()
        self._begun = True
        await self._send(message)

    async def refuse(self, error: BrokerError, needed: Collection[str], resource_metadata: str | None) -> None:
        """Answer for an error; an answer that has begun already is left as it is, so that its end is missing."""
        told = answer(error, needed, resource_metadata)
        headers = (("Content-Type", "application/problem+json"), *told.headers)
        if self._scope["type"] == "http":
            if not self._begun:
                await _respond(self._send, told.status, headers, problem(told, error))
        elif self._begun or "websocket.http.response" not in self._scope.get("extensions", {}):
            await self._send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": told.code})
        else:
            await _respond(self._send, told.status, headers, problem(told, error), kind="websocket.http")


def needs(*scopes: str) -> Callable[[HTTPConnection], Awaitable[Verified]]:
    """Return a dependency for routes behind a :class:`Guard`, which gives the token if it has all of ``scopes``.

    For FastAPI: ``token: Annotated[Verified, Depends(needs("tickets:read"))]``; in Starlette await it with the request.
    The guard must be one of the application's middlewares, which answers for what this raises.
    """
    from starlette.requests import HTTPConnection  # noqa: PLC0415 - only such applications have it

    needed = scope_names(scopes)

    async def dependency(connection: HTTPConnection) -> Verified:
        verified: Verified = connection.scope["state"][STATE]
        require_scopes(verified.claims, needed)
        return verified

    dependency.__annotations__["connection"] = HTTPConnection  # which FastAPI looks for
    return dependency


_METADATA_HEADERS: Final = (
    ("Content-Type", "application/json"),
    ("Cache-Control", "public, max-age=300"),
    ("Access-Control-Allow-Origin", "*"),
)


async def _respond(
    send: Send, status: int, headers: Iterable[tuple[str, str]], body: bytes, *, kind: str = "http"
) -> None:
    raw = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers]
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": f"{kind}.response.start", "status": int(status), "headers": raw})
    await send({"type": f"{kind}.response.body", "body": body})


def _route(scope: Scope) -> str:
    """Return the path as the application's routes spell it: without what it is mounted under."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _raw_path(scope: Scope) -> str:
    """Return the path as it was sent; a server that does not tell has decoded it, and it is encoded again."""
    raw = scope.get("raw_path")
    return quote(scope["path"], safe=_SAFE) if raw is None else raw.decode("latin-1").partition("?")[0]
