"""Guarding an aiohttp application: a decorator for one handler, a middleware for all, and the resource's metadata."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from broker.core.action import MAX_COUNT
from broker.core.errors import BrokerError, Malformed
from broker.core.scope import is_scope
from broker.core.task import is_action_name
from broker.verifier.actions import Actions, Reservation
from broker.verifier.challenge import Answer, answer, metadata_document, metadata_path, problem
from broker.verifier.presented import presented
from broker.verifier.token_verifier import TokenVerifier, Verified, require_scopes, scope_names
from broker.verifier.verifier import Verifier

VERIFIED: Final = web.RequestKey("broker.verified", Verified)
"""``request[VERIFIED]`` is the :class:`~broker.verifier.Verified` token of a guarded request."""

RESERVATION: Final = web.RequestKey("broker.reservation", Reservation)
"""``request[RESERVATION]`` is the :class:`~broker.verifier.actions.Reservation` of a budgeted request."""

APPROVAL: Final = "Broker-Approval"
"""The header in which a client names the request for approval that it goes on with."""

_APPROVAL_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")

GuardedHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def guard(verifier: TokenVerifier, scopes: Iterable[str] = ()) -> Callable[[GuardedHandler], Handler]:
    """Return a decorator: the handler only runs for a good token that has all of ``scopes``.

    Everybody else is answered 401 or 403 with the challenges that tell a client what to do, or 503 with ``Retry-After``
    when the view of revocations is stale. Under :func:`protecting` the token is not checked a second time.
    """
    needed = scope_names(scopes)

    def decorate(handler: GuardedHandler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                await _admit(verifier, request, needed)
            except BrokerError as error:
                return _response(answer(error, needed, verifier.resource_metadata), error)
            return await handler(request)

        return guarded

    return decorate


def enduring(verifier: Verifier, scopes: Iterable[str] = ()) -> Callable[[GuardedHandler], Handler]:
    """Return a decorator like :func:`guard` for handlers that go on: streams of events, WebSockets, long downloads.

    The handler is cancelled as soon as the token is good no more, and its connection is closed: an answer that has not
    begun becomes a refusal. A handler that wants to say good-bye does so when it is cancelled.
    """
    needed = scope_names(scopes)

    def decorate(handler: GuardedHandler) -> Handler:
        @guard(verifier, needed)
        async def going_on(request: web.Request) -> web.StreamResponse:
            try:
                async with verifier.while_good(request[VERIFIED]):
                    return await handler(request)
            except BrokerError as error:
                if request.writer.output_size and request.transport is not None:
                    request.transport.close()
                return _response(answer(error, needed, verifier.resource_metadata), error)

        return going_on

    return decorate


def budgeted(
    verifier: TokenVerifier,
    actions: Actions,
    action: str,
    scopes: Iterable[str] = (),
    *,
    count: int = 1,
    target: Callable[[web.Request], str] | None = None,
    arguments: Callable[[web.Request], Awaitable[bytes]] | None = None,
) -> Callable[[GuardedHandler], Handler]:
    """Return a decorator: the handler only runs for a good token, and only as often as the budget of its task allows.

    The token needs all of ``scopes`` (by default one with the action's name); the first is the one that the action
    falls under. The action is reserved before, and settled after: ``request[RESERVATION].not_done()`` in the handler
    gives it back. Recorded are its ``target`` (by default the request's path) and the digest of its ``arguments`` (by
    default the query as it was sent, a line feed, and the body).

    Who goes on after a person lifted the budget names that in the header ``Broker-Approval``; the answer that says to
    wait has it as ``auth_req_id``. Raises ``Malformed`` for settings that cannot work.
    """
    needed = scope_names(scopes) or (action,)
    if not (is_action_name(action) and is_scope(needed[0]) and 0 < count <= MAX_COUNT):
        raise Malformed(f"budgeted: not an action, not a scope of its own, or not a count of 1 to {MAX_COUNT}")

    def decorate(handler: GuardedHandler) -> Handler:
        @guard(verifier, needed)
        async def reserving(request: web.Request) -> web.StreamResponse:
            reserved = False
            try:
                async with actions.acting(
                    presented(request.headers.items()).token,
                    action,
                    count=count,
                    scope=needed[0],
                    target=request.rel_url.raw_path if target is None else target(request),
                    arguments=await (_sent if arguments is None else arguments)(request),
                    auth_req_id=_approval(request),
                ) as reservation:
                    reserved = True
                    request[RESERVATION] = reservation
                    return await handler(request)
            except BrokerError as error:
                if reserved:
                    raise
                return _response(answer(error, needed, verifier.resource_metadata), error)

        return reserving

    return decorate


async def _sent(request: web.Request) -> bytes:
    """Return what was sent with a request: its query, which has no line feed, and its body."""
    return request.rel_url.raw_query_string.encode() + b"\n" + await request.read()


def _approval(request: web.Request) -> str | None:
    """Return the request for approval that a client goes on with. Raises ``Malformed`` if it cannot be one."""
    named = request.headers.getall(APPROVAL, ())
    if len(named) > 1 or any(_APPROVAL_ID.fullmatch(one) is None for one in named):
        raise Malformed(f"{APPROVAL}: must be one auth_req_id")
    return named[0] if named else None


def protecting(verifier: TokenVerifier, scopes: Iterable[str] = (), *, public: Collection[str] = ()) -> Middleware:
    """Return a middleware that guards every route of an application, unknown ones too.

    ``public`` are the routes that anybody may use, by their path as registered (``/items/{id}``); the resource's
    metadata is always one of them.
    """
    unguarded = frozenset({*public, metadata_path(verifier.audience)})
    needed = scope_names(scopes)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        if resource is not None and resource.canonical in unguarded:
            return await handler(request)
        return await guard(verifier, needed)(handler)(request)

    return middleware


def metadata_route(verifier: TokenVerifier, *, scopes: Iterable[str] = (), name: str | None = None) -> web.RouteDef:
    """Return the route that serves the resource's own metadata (RFC 9728): which broker gives tokens for it.

    ``scopes`` are those it knows, ``name`` what people call it. Pass
    ``resource_metadata=metadata_url(audience)`` to the :class:`Verifier`, so that challenges point here.
    """
    body = metadata_document(verifier.issuer, verifier.audience, scope_names(scopes), name)
    headers = {"Cache-Control": "public, max-age=300", "Access-Control-Allow-Origin": "*"}

    async def metadata(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json", headers=headers)

    return web.get(metadata_path(verifier.audience), metadata)


async def _admit(verifier: TokenVerifier, request: web.Request, needed: tuple[str, ...]) -> None:
    known = request.get(VERIFIED)
    if known is None or known.claims.aud != verifier.audience:
        path = request.rel_url.raw_path
        request[VERIFIED] = await verifier.verify_request(request.headers.items(), request.method, path, scopes=needed)
    else:
        require_scopes(known.claims, needed)


def _response(told: Answer, error: BrokerError) -> web.Response:
    response = web.Response(body=problem(told, error), status=told.status)
    response.content_type = "application/problem+json"
    response.headers.extend(told.headers)
    return response
