"""The gate: every request passes it once, on its way in and on its way out.

On the way in it gets an id, its place in a trace and a deadline, and its caller is admitted as the route demands. On
the way out an error becomes an answer, headers are added, and what happened is counted and logged. It is one flat piece
instead of a stack of middlewares: it runs for every token that is issued.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from aiohttp import hdrs, web
from multidict import CIMultiDict

from broker.core.errors import BrokerError, Code, Unavailable
from broker.http.addresses import FailureLimit
from broker.http.call import Access, Call, Route
from broker.http.connection import Connection
from broker.http.credentials import admit, presented_token
from broker.http.forwarded import FORWARDED_FOR, client_address
from broker.http.refusal import refusal
from broker.http.signing_in import signs_in
from broker.http.surface import Services, Site
from broker.http.trace import trace_of
from broker.http.urgency import Urgency
from broker.ports import Caller

REQUEST_ID: Final = "X-Request-Id"
TRACEPARENT: Final = "traceparent"
UNMATCHED: Final = "unmatched"

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NO_IDENTITY: Final = frozenset(
    {
        Code.MALFORMED_REQUEST,
        Code.DUPLICATE_PARAMETER,
        Code.TOO_LARGE,
        Code.TOO_SLOW,
        Code.UNSUPPORTED_MEDIA_TYPE,
        Code.UNSUPPORTED_GRANT_TYPE,
        Code.NOT_FOUND,
        Code.METHOD_NOT_ALLOWED,
        Code.CLIENT_AUTHENTICATION_MISSING,
        Code.CLIENT_AUTHENTICATION_FAILED,
        Code.CLIENT_AUTHENTICATION_AMBIGUOUS,
        Code.ASSERTION_INVALID,
        Code.ASSERTION_REPLAYED,
        Code.ENROLLMENT_INVALID,
        Code.PROOF_INVALID,
        Code.PROOF_REPLAYED,
        Code.TOKEN_MISSING,
        Code.TOKEN_INVALID,
        Code.TOKEN_EXPIRED,
        Code.TOKEN_REVOKED,
        Code.TOKEN_AUDIENCE,
    }
)
"""What counts against an address, as long as nobody was admitted."""

_CLOSING: Final = frozenset({Code.TOO_LARGE, Code.TOO_SLOW, Code.STOPPING})
"""After these the connection is closed: what is left of the request is not worth reading."""

_HELD_BACK: Final = _NO_IDENTITY | {Code.OVERLOADED}
"""The refusals that are held back under load."""

_TOO_MUCH: Final = "more is asked of the broker than it can do now"


class Gate:
    """Lets requests in, and answers out. Counts what is under way, so that stopping can wait for it."""

    def __init__(self, services: Services, site: Site, routes: Mapping[tuple[str, str], Route]) -> None:
        """``routes`` are by method and path template; what is not among them does not exist (default deny)."""
        self._services = services
        self._site = site
        self._routes = routes
        self._failures = FailureLimit(site.failures_per_minute, site.unlimited)
        self._security = _security_headers(site)
        self._draining = False
        self._retiring = False
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        connection = request.protocol
        if isinstance(connection, Connection):
            connection.begin()
        started = asyncio.get_running_loop().time()
        self._active += 1
        self._idle.clear()
        call = self._call(request)
        try:
            response = await self._outcome(call)
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()
            if isinstance(connection, Connection):
                connection.end()
        if self._retiring:
            response.force_close()
        self._finish(call, response, asyncio.get_running_loop().time() - started)
        return response

    def retire(self) -> None:
        """Close each connection with the next answer on it; the client's next one leads to another process.

        What does not end by itself ends.
        """
        self._retiring = True
        self._services.feed.end()

    def drain(self) -> None:
        """Refuse what comes from now on; what was let in goes on, but what does not end by itself."""
        self._draining = True
        self._services.feed.end()

    async def drained(self) -> None:
        """Wait until nothing is under way."""
        await self._idle.wait()

    def _call(self, request: web.Request) -> Call:
        request_id = self._services.ids.new("req")
        trace = trace_of(request_id, request.headers.get(TRACEPARENT))
        address = request.remote or "local"
        if self._site.trusted_proxies:
            lines = request.headers.getall(FORWARDED_FOR, ())
            address = client_address(address, lines, self._site.trusted_proxies)
        caller = Caller(address=address, request_id=request_id, trace_id=trace.trace_id)
        resource = request.match_info.route.resource
        route = None if resource is None else self._routes.get((request.method, resource.canonical))
        return Call(request, self._services, self._site, caller, trace.traceparent, route)

    async def _outcome(self, call: Call) -> web.StreamResponse:
        """Return the answer of the route, if there is a place for the call, or a refusal.

        Under load, refusals of those without an identity are held back for a moment: who does not heed
        ``Retry-After`` then costs no more than who does, and what is never turned away is of no use to strangers.
        """
        pressure, urgency = self._services.pressure, _urgency(call)
        if not pressure.lanes[urgency].has_room and await signs_in(call):
            urgency = Urgency.SIGNING_IN
        if await pressure.lanes[urgency].enter():
            try:
                response: web.StreamResponse = await self._let_in(call)
            finally:
                pressure.lanes[urgency].leave()
        else:
            retry_after = pressure.turned_away(urgency)
            response = self._refusal(call, Unavailable(Code.OVERLOADED, _TOO_MUCH, retry_after=retry_after))
        if call.agent is None and call.code in _HELD_BACK and not pressure.lanes[Urgency.ISSUING].has_room:
            await asyncio.sleep(pressure.pause(asyncio.get_running_loop().time()))
        return response

    async def _let_in(self, call: Call) -> web.StreamResponse:
        """Return the answer of the route's handler, or the answer that its error is."""
        try:
            async with asyncio.timeout(self._site.request_seconds):
                return await self._admitted(call)
        except BrokerError as error:
            return self._refusal(call, error)
        except TimeoutError:
            return self._refusal(call, Unavailable(Code.OVERLOADED, "the request took too long", retry_after=1))
        except Exception as error:
            if isinstance(error, ConnectionError) and call.request.transport is None:
                raise  # the caller has gone: there is nobody to answer
            self._services.events.error(
                "request.failed", request=call.caller.request_id, trace=call.caller.trace_id, exc_info=error
            )
            return self._refusal(call, Unavailable(Code.INTERNAL, "internal error"))

    async def _admitted(self, call: Call) -> web.StreamResponse:
        """Let the caller in as the route demands, and hand the call to its handler.

        An address that has failed too often is refused before its assertion is looked at. A token is always looked at:
        it costs little, and an operator must get in whoever else makes trouble behind the same address.
        """
        if self._draining:
            raise Unavailable(Code.STOPPING, "the broker is stopping", retry_after=1)
        route = call.route
        if route is None:
            raise _unmatched(call.request)
        if isinstance(route.access, str) or route.access is Access.HOLDER:
            presented = presented_token(call)
            if presented is None:
                raise BrokerError(Code.TOKEN_MISSING, "send an access token for this API")
            await admit(call, presented)
            if isinstance(route.access, str):
                call.operator.require(route.access)
        elif route.method == "POST":
            wait = self._failures.wait(call.caller.address, self._services.clock.now())
            if wait is not None:
                text = "too many failed attempts from this address"
                raise BrokerError(Code.RATE_LIMITED, text, retry_after=wait)
        return await route.handler(call)

    def _refusal(self, call: Call, error: BrokerError) -> web.Response:
        call.code = error.code
        if call.agent is None and error.code in _NO_IDENTITY:
            self._failures.count(call.caller.address, self._services.clock.now())
        response = refusal(call, error)
        if error.code in _CLOSING:
            response.force_close()
        return response

    def _finish(self, call: Call, response: web.StreamResponse, seconds: float) -> None:
        """Add the headers that every answer has, count it, log it."""
        headers = response.headers
        headers.update(self._security)
        headers[REQUEST_ID] = call.caller.request_id
        headers[TRACEPARENT] = call.traceparent
        path = UNMATCHED if call.route is None else call.route.path
        self._services.metrics.answered(path, response.status, seconds)
        if not self._site.access_log:
            return
        method = call.request.method
        self._services.events.info(
            "request",
            method=method if method in _METHODS else "other",
            route=path,
            status=response.status,
            code=None if call.code is None else call.code.value,
            agent=call.agent,
            address=call.caller.address,
            request=call.caller.request_id,
            trace=call.caller.trace_id,
            milliseconds=round(seconds * 1000, 2),
        )


def _urgency(call: Call) -> Urgency:
    return Urgency.TELLING if call.route is None else call.route.urgency


def _unmatched(request: web.Request) -> BrokerError:
    problem = request.match_info.http_exception
    if isinstance(problem, web.HTTPMethodNotAllowed):
        return BrokerError(Code.METHOD_NOT_ALLOWED, f"use {' or '.join(sorted(problem.allowed_methods))}")
    return BrokerError(Code.NOT_FOUND, "there is nothing at this path")


def _security_headers(site: Site) -> CIMultiDict[str]:
    """Return what tells a browser that this is no place for it."""
    headers = CIMultiDict(
        {
            hdrs.SERVER: "broker",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
            "Referrer-Policy": "no-referrer",
        }
    )
    if site.issuer.startswith("https://"):
        headers["Strict-Transport-Security"] = "max-age=31536000"
    return headers
