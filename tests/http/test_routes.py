from __future__ import annotations

import re

import pytest
from aiohttp import web

from broker.core.policy import OPERATOR_SCOPES
from broker.http.app import create_app
from broker.http.call import Access, Route
from broker.http.routes import API_ROUTES, HEALTH_ROUTES, METRICS_ROUTES, OAUTH_ROUTES, by_place
from tests.support.broker_app import OPERATOR_SCOPES as ALL
from tests.support.broker_app import BrokerApp

PUBLIC_API = {("POST", "/v1/enrollments/redeem")}
"""The only part of the API that needs no token; it needs a code."""

HOLDER_API = {("GET", "/v1/receipts/{ref}")}
"""What needs a token with whatever scope: it is about the caller itself."""

SCOPED = [route for route in API_ROUTES if isinstance(route.access, str)]


def _filled(path: str) -> str:
    return re.sub(r"\{[a-z]+\}", "1", path)


def test_every_route_says_what_it_needs() -> None:
    """Each route of the API names a scope that policies can grant, except those that are listed here."""
    for route in API_ROUTES:
        if isinstance(route.access, str):
            assert route.access in OPERATOR_SCOPES, route.path
        else:
            listed = PUBLIC_API if route.access is Access.PUBLIC else HOLDER_API
            assert (route.method, route.path) in listed


def test_nothing_else_is_public() -> None:
    """Outside of the API, what needs no authentication is a short list that only grows on purpose."""
    public = {route.path for route in (*OAUTH_ROUTES, *HEALTH_ROUTES) if route.access is Access.PUBLIC}
    assert public == {"/oauth2/authorize", "/healthz", "/readyz"}
    assert {route.path for route in METRICS_ROUTES} == {"/healthz", "/readyz", "/metrics"}


def test_two_routes_cannot_be_in_one_place() -> None:
    """A route cannot be shadowed by another one."""
    one = API_ROUTES[0]
    with pytest.raises(ValueError, match="two routes"):
        by_place([one, Route(one.method, one.path, Access.PUBLIC, one.handler)])


@pytest.mark.parametrize("route", SCOPED, ids=lambda route: f"{route.method} {route.path}")
async def test_every_route_is_closed(app: BrokerApp, route: Route) -> None:
    """Without a token a route answers 401 and says where to get one; with a token that lacks its scope, 403.

    The challenges are those of B.9: no ``error`` when no token was sent; all needed scopes when one is missing.
    """
    path = _filled(route.path)
    reply = await app.call(route.method, path)
    assert reply.status == 401
    assert reply.json["code"] == "token_missing"
    bearer, dpop = reply.challenges
    metadata = f'resource_metadata="{app.issuer}/.well-known/oauth-protected-resource/v1"'
    assert bearer == f'Bearer {metadata}, scope="{route.access}"'
    assert dpop == 'DPoP algs="ES256 RS256"'

    reply = await app.call(route.method, path, token="eyJ.bad.token")
    assert reply.status == 401
    assert 'error="invalid_token"' in reply.challenges[0]

    token = await app.operator(*(scope for scope in ALL if scope != route.access))
    reply = await app.call(route.method, path, token=token)
    assert (reply.status, reply.json["code"]) == (403, "insufficient_scope")
    assert 'error="insufficient_scope"' in reply.challenges[0]
    assert f'scope="{route.access}"' in reply.challenges[0]


async def test_every_registered_path_is_in_the_table(app: BrokerApp) -> None:
    """The framework's router knows no path and method that the table does not have: walked, not believed."""
    application = create_app(app.services, app.broker.site)
    table = {(route.method, route.resource.canonical) for route in application.router.routes() if route.resource}
    declared = {(route.method, route.path) for route in (*API_ROUTES, *OAUTH_ROUTES, *HEALTH_ROUTES)}
    assert declared <= table
    others = {path for _, path in table - declared}
    heads = {path for method, path in table if method == "HEAD"}
    assert {path for path in others if path.startswith("/v1")} <= heads


async def test_a_handler_without_an_entry_is_not_served(app: BrokerApp) -> None:
    """Even a handler that was registered behind the table's back is not reached (default deny)."""

    async def backdoor(_request: web.Request) -> web.Response:
        return web.Response(text="open")

    application = create_app(app.services, app.broker.site)
    application.router.add_get("/backdoor", backdoor)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with app.http.get(f"http://127.0.0.1:{site.port}/backdoor") as response:
            assert response.status == 404
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "/v1/nothing",
        "/metrics",
        "//v1/keys",
        "/v1/keys/",
        "/V1/keys",
        "/v1/../v1/keys/x",
        "/v1/%2e",
    ],
)
async def test_what_does_not_exist(app: BrokerApp, path: str) -> None:
    """Any other path is 404, as problem details, with or without a token; metrics are not served here."""
    reply = await app.call("GET", path, token=await app.operator())
    assert reply.status == 404
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert reply.json["code"] == "not_found"


async def test_a_wrong_method_names_the_right_ones(app: BrokerApp) -> None:
    """405 says what is allowed."""
    reply = await app.call("PUT", "/v1/agents")
    assert reply.status == 405
    assert reply.headers["Allow"] == "GET, HEAD, POST"
    assert reply.headers["Content-Type"] == "application/problem+json"
