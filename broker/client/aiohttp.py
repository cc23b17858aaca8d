"""A middleware for aiohttp client sessions: each request carries a token, and survives a revoked or too small one."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from http import HTTPStatus

from aiohttp import ClientHandlerType, ClientMiddlewareType, ClientRequest, ClientResponse, hdrs
from aiohttp.payload import Payload
from yarl import URL

from broker.client.challenge import demanded_scopes, demands_nonce
from broker.client.client import Client
from broker.core.errors import Malformed

_MAY_NEED_MORE = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


class _Remedy(Enum):
    """What can be done about a refusal, each of them once for one request."""

    NONCE = auto()
    """Make the proof again, with the resource's nonce."""
    STEP_UP = auto()
    """Get a token with the scopes that the resource needs."""
    RENEW = auto()
    """Get another token: this one was revoked, or is not recent enough for the resource."""


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
    after a redirect, get no token. A refused request is sent once more, if its body can be: with a new token when the
    resource answers 401, and with its nonce in the proof when it wants that.

    When the resource answers that it needs more scopes (RFC 6750, 3.1; RFC 9470), and every scope that it names is
    among ``scopes`` and ``may_step_up``, a token with these, for the same ``audience``, is got, a person's approval
    waited for if it takes one, and the request sent once more with it. Later requests start with the lesser token
    again. Without ``may_step_up`` the answer is the caller's to deal with. The time-out of the session bounds the wait
    as well; sending the request again after it goes on with the same approval.
    """
    home = _origin(audience if origin is None else origin)
    wanted, more = _names(scopes), frozenset(_names(may_step_up))

    async def middleware(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        if request.url.origin() != home:
            return await handler(request)
        url, needed, done = str(request.url), wanted, set[_Remedy]()
        while True:
            request.headers.update(await client.authorize(request.method, url, audience, needed, task))
            response = await handler(request)
            nonce_is_new = client.remember_nonce(url, response.headers.get("DPoP-Nonce"))
            remedy = _remedy(response, frozenset(needed), more, nonce_is_new=nonce_is_new)
            # What a person agreed to just now is not given back because it is refused: they would be asked again.
            if remedy is None or remedy in done or (remedy is _Remedy.RENEW and _Remedy.STEP_UP in done):
                return response
            if not _repeatable(request):
                return response
            done.add(remedy)
            if remedy is _Remedy.STEP_UP:
                needed = tuple(sorted(demanded_scopes(_challenges(response)) | set(needed)))
            elif remedy is _Remedy.RENEW:
                client.invalidate(request.headers[hdrs.AUTHORIZATION].partition(" ")[2])
            response.release()

    return middleware


def _remedy(
    response: ClientResponse, needed: frozenset[str], more: frozenset[str], *, nonce_is_new: bool
) -> _Remedy | None:
    """Return what to do about an answer; None if it is to be the caller's."""
    if response.status not in _MAY_NEED_MORE:
        return None
    found = _challenges(response)
    if nonce_is_new and demands_nonce(found):
        return _Remedy.NONCE
    named = demanded_scopes(found)
    if named - needed:
        return _Remedy.STEP_UP if named <= needed | more else None
    return _Remedy.RENEW if response.status == HTTPStatus.UNAUTHORIZED else None


def _challenges(response: ClientResponse) -> list[str]:
    return response.headers.getall(hdrs.WWW_AUTHENTICATE, [])


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
