"""A middleware for aiohttp client sessions: each request carries a token, and survives a revoked or renewed one."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from aiohttp import ClientHandlerType, ClientMiddlewareType, ClientRequest, ClientResponse, hdrs
from aiohttp.payload import Payload
from yarl import URL

from broker.client.client import Client
from broker.core.errors import Malformed


def authorizing(
    client: Client, audience: str, scopes: Iterable[str] = (), task: str | None = None, *, origin: str | None = None
) -> ClientMiddlewareType:
    """Return a middleware that sends a token for ``audience`` with every request to ``origin``.

    ``origin`` is where the resource is (the audience itself, if it is a URL). Requests that go anywhere else, such as
    after a redirect, get no token. When the resource answers 401, the token is taken for dead and the request sent once
    more with a new one, if its body can be sent again; so it is when the resource wants its nonce in the proof.
    """
    home = _origin(audience if origin is None else origin)
    wanted = tuple(scopes.split() if isinstance(scopes, str) else scopes)

    async def middleware(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        if request.url.origin() != home:
            return await handler(request)
        url = str(request.url)
        request.headers.update(await client.authorize(request.method, url, audience, wanted, task))
        response = await handler(request)
        nonce_is_new = client.remember_nonce(url, response.headers.get("DPoP-Nonce"))
        if response.status != HTTPStatus.UNAUTHORIZED or not _repeatable(request):
            return response
        if not (nonce_is_new and "use_dpop_nonce" in response.headers.get(hdrs.WWW_AUTHENTICATE, "")):
            client.invalidate(request.headers[hdrs.AUTHORIZATION].partition(" ")[2])
        response.release()
        request.headers.update(await client.authorize(request.method, url, audience, wanted, task))
        return await handler(request)

    return middleware


def _repeatable(request: ClientRequest) -> bool:
    body = request.body
    return not isinstance(body, Payload) or not body.consumed


def _origin(url: str) -> URL:
    try:
        return URL(url).origin()
    except ValueError as error:
        raise Malformed("origin: the audience is no URL; say where the resource is") from error
