"""A middleware for aiohttp client sessions: each request carries a token, and survives a revoked or renewed one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from aiohttp import ClientHandlerType, ClientMiddlewareType, ClientRequest, ClientResponse, hdrs
from aiohttp.payload import Payload
from yarl import URL

from broker.client.client import Client
from broker.core.errors import Malformed

_SCOPE: Final = re.compile(r'\bscope="([^"\\]{1,4096})"')


def authorizing(
    client: Client,
    audience: str,
    scopes: Iterable[str] = (),
    task: str | None = None,
    *,
    origin: str | None = None,
    may_step_up: Iterable[str] = (),
) -> ClientMiddlewareType:
    """Return a middleware that sends a token for ``audience`` with every request to ``origin``.

    ``origin`` is where the resource is (the audience itself, if it is a URL). Requests that go anywhere else, such as
    after a redirect, get no token. When the resource answers 401, the token is taken for dead and the request sent once
    more with a new one, if its body can be sent again; so it is when the resource wants its nonce in the proof.

    When the resource answers that it needs more scopes (RFC 6750, 3.1), and all of them are among ``scopes`` and
    ``may_step_up``, a token with these is got, a person's approval waited for if it takes one, and the request sent
    once more with it. Later requests start with the lesser token again.
    """
    home = _origin(audience if origin is None else origin)
    wanted, more = _names(scopes), frozenset(_names(may_step_up))

    async def middleware(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        if request.url.origin() != home:
            return await handler(request)
        url = str(request.url)
        request.headers.update(await client.authorize(request.method, url, audience, wanted, task))
        response = await handler(request)
        nonce_is_new = client.remember_nonce(url, response.headers.get("DPoP-Nonce"))
        needed = _needed(response, frozenset(wanted), more)
        if needed and _repeatable(request):
            response.release()
            request.headers.update(await client.authorize(request.method, url, audience, needed, task))
            return await handler(request)
        if response.status != HTTPStatus.UNAUTHORIZED or not _repeatable(request):
            return response
        if not (nonce_is_new and "use_dpop_nonce" in response.headers.get(hdrs.WWW_AUTHENTICATE, "")):
            client.invalidate(request.headers[hdrs.AUTHORIZATION].partition(" ")[2])
        response.release()
        request.headers.update(await client.authorize(request.method, url, audience, wanted, task))
        return await handler(request)

    return middleware


def _needed(response: ClientResponse, wanted: frozenset[str], more: frozenset[str]) -> tuple[str, ...]:
    """Return the scopes that a resource wants besides, together with those at hand; nothing if that is not allowed."""
    if response.status != HTTPStatus.FORBIDDEN:
        return ()
    challenges = response.headers.getall(hdrs.WWW_AUTHENTICATE, [])
    asked = [_SCOPE.search(one) for one in challenges if 'error="insufficient_scope"' in one]
    named = frozenset(name for found in asked if found is not None for name in found[1].split())
    return tuple(sorted(named | wanted)) if named - wanted and named <= wanted | more else ()


def _names(scopes: Iterable[str]) -> tuple[str, ...]:
    return tuple(scopes.split() if isinstance(scopes, str) else scopes)


def _repeatable(request: ClientRequest) -> bool:
    body = request.body
    return not isinstance(body, Payload) or not body.consumed


def _origin(url: str) -> URL:
    try:
        return URL(url).origin()
    except ValueError as error:
        raise Malformed("origin: the audience is no URL; say where the resource is") from error
