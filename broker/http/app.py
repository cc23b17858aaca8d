"""The application: the route table behind the gate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from broker.http.call import Route
from broker.http.discovery import Discovery
from broker.http.middleware import Gate
from broker.http.routes import (
    API_ROUTES,
    HEALTH_ROUTES,
    METRICS_ROUTES,
    OAUTH_ROUTES,
    by_place,
    document_routes,
    scopes_of,
)
from broker.http.surface import Services, Site

__all__ = ["GATE", "Services", "Site", "create_app", "create_metrics_app"]

GATE: Final = web.AppKey("gate", Gate)
"""The gate of an application, by which it is told to stop taking requests."""


def create_app(services: Services, site: Site) -> web.Application:
    """Return the application that serves everything but metrics."""
    documents = Discovery(site, scopes_of(API_ROUTES))
    return _application(services, site, (*API_ROUTES, *OAUTH_ROUTES, *HEALTH_ROUTES, *document_routes(documents)))


def create_metrics_app(services: Services, site: Site) -> web.Application:
    """Return the application of the private listener: metrics and health."""
    return _application(services, site, METRICS_ROUTES)


def _application(services: Services, site: Site, routes: Iterable[Route]) -> web.Application:
    table = by_place(routes)
    gate = Gate(services, site, table)

    @web.middleware
    async def pass_gate(request: web.Request, handler: Handler) -> web.StreamResponse:  # noqa: ARG001 - the table's counts
        return await gate.answer(request)

    app = web.Application(middlewares=[pass_gate], client_max_size=site.body_bytes)
    for (method, _), route in table.items():
        app.router.add_route(method, route.pattern, _never, expect_handler=_expect)
    app[GATE] = gate
    return app


async def _never(_request: web.Request) -> web.StreamResponse:
    """Stand where the framework wants a handler; the gate calls the one in the route table instead."""
    raise web.HTTPNotFound


async def _expect(request: web.Request) -> web.StreamResponse | None:
    """Answer ``Expect: 100-continue``; any other expectation is ignored, as a server may (RFC 9110, 10.1.1)."""
    if request.version >= (1, 1) and request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    return None
