"""A service whose calls are counted: one decorator, and nothing is done more often than the task allows."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from broker.client import Client, KeyIdentity
from broker.core.errors import Malformed
from broker.verifier import Actions, Verifier
from broker.verifier.aiohttp import APPROVAL, RESERVATION, VERIFIED, budgeted
from tests.support.broker_app import TICKETS, BrokerApp, Template, make_template, running_app
from tests.support.running_broker import free_port
from tests.support.team import TEAM, TEAM_POLICY, decide, open_task


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker with a team of agents."""
    return make_template(tmp_path_factory.mktemp("team") / "broker", TEAM_POLICY, TEAM)


@pytest.fixture
async def app(team: Template, tmp_path: Path) -> AsyncIterator[BrokerApp]:
    """Run it."""
    async with running_app(team, tmp_path / "broker") as running:
        yield running


@pytest.fixture
async def service(app: BrokerApp) -> AsyncIterator[str]:
    """A service with one counted call: it does it, or says that there was nothing to do, or fails."""
    async with (
        Client(app.issuer, identity=KeyIdentity("gateway", app.keys["gateway"])) as own,
        Verifier(app.issuer, TICKETS, credentials=own, poll=0.2) as verifier,
        Actions(app.issuer, credentials=own) as actions,
    ):

        @budgeted(verifier, actions, "tickets:read")
        async def read(request: web.Request) -> web.Response:
            how = await request.text()
            if how == "nothing":
                request[RESERVATION].not_done("there was nothing to read")
            if how == "fail":
                raise web.HTTPBadGateway
            return web.Response(text="read")

        async def named(request: web.Request) -> bytes:
            return request.match_info["id"].encode()

        @budgeted(
            verifier, actions, "tickets:search", ["tickets:read"], target=lambda r: r.match_info["id"], arguments=named
        )
        async def search(request: web.Request) -> web.Response:
            return web.Response(text=request[VERIFIED].claims.client_id)

        serving = web.Application()
        serving.add_routes([web.post("/tickets", read), web.post("/tickets/{id}", search)])
        runner = web.AppRunner(serving)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield f"http://127.0.0.1:{port}/tickets"
        finally:
            await runner.cleanup()


async def post(url: str, token: str, how: str = "", *approvals: str) -> tuple[int, dict[str, object]]:
    """Call the service."""
    headers = [("Authorization", f"Bearer {token}"), *((APPROVAL, approval) for approval in approvals)]
    async with aiohttp.ClientSession() as http, http.post(url, data=how, headers=headers) as reply:
        problem = await reply.json(content_type=None) if reply.status in (400, 401, 403, 409) else {}
        return reply.status, problem


async def test_no_more_than_the_budget_is_done(app: BrokerApp, service: str) -> None:
    """Of 20 calls at once with a budget of 5, exactly 5 are done; each is in the log with what came of it."""
    task = await open_task(app, budget={"actions": {"tickets:read": 5}})
    token = await app.token("planner", TICKETS, "tickets:read", task=task["id"])
    answers = await asyncio.gather(*(post(service, token) for _ in range(20)))
    assert Counter(status for status, _ in answers) == {200: 5, 409: 15}
    settled = await app.entries("action.settled")
    assert [entry["outcome"] for entry in settled] == ["done"] * 5
    assert {entry["target"] for entry in settled} == {"/tickets"}


async def test_what_was_not_done_goes_back_and_what_failed_does_not(app: BrokerApp, service: str) -> None:
    """The handler says so; an exception may have come after the deed, so it counts."""
    task = await open_task(app, budget={"actions": {"tickets:read": 2}})
    token = await app.token("planner", TICKETS, "tickets:read", task=task["id"])
    assert (await post(service, token, "nothing"))[0] == 200
    assert (await post(service, token, "fail"))[0] == 502
    assert (await post(service, token))[0] == 200
    assert (await post(service, token))[1]["code"] == "authorization_pending"
    outcomes = [
        (entry["outcome"], entry["result"]) for entry in await app.entries("action.settled") if "result" in entry
    ]
    assert outcomes == [("not_done", "there was nothing to read"), ("done", "failed: HTTPBadGateway")]


async def test_a_person_lifts_it(app: BrokerApp, service: str) -> None:
    """The answer says what to wait for; with its id, and a person's agreement, the call goes through."""
    task = await open_task(app, budget={"actions": {"tickets:read": 1}})
    token = await app.token("planner", TICKETS, "tickets:read", task=task["id"])
    assert (await post(service, token))[0] == 200
    status, problem = await post(service, token)
    assert status == 409
    request = str(problem["auth_req_id"])
    await decide(app, "carol", request)
    assert (await post(service, token, "", request))[0] == 200


async def test_a_person_does_not(app: BrokerApp, service: str) -> None:
    """Who was denied is told so, as often as the client asks; another agent's request is no way in either."""
    task = await open_task(app, budget={"actions": {"tickets:read": 0}})
    token = await app.token("planner", TICKETS, "tickets:read", task=task["id"])
    request = str((await post(service, token))[1]["auth_req_id"])
    await decide(app, "carol", request, "deny")
    for _ in range(2):
        status, problem = await post(service, token, "", request)
        assert (status, problem["code"]) == (403, "approval_denied")
    status, problem = await post(service, token, "", "apr_of_somebody_else")
    assert (status, problem["code"]) == (403, "approval_invalid")


@pytest.mark.parametrize("approvals", [("",), ("a b",), ("apr_1", "apr_1"), ("\xff",), ("a" * 129,), ("apr_\u20ac",)])
async def test_a_header_that_names_no_approval_is_refused(
    app: BrokerApp, service: str, approvals: tuple[str, ...]
) -> None:
    """Whatever a client sends, the answer is a clear one, and nothing is reserved."""
    status, problem = await post(service, await app.token("planner", TICKETS, "tickets:read"), "", *approvals)
    assert (status, problem["code"]) == (400, "malformed_request")
    assert not await app.entries("action.reserved")


async def test_the_digest_is_of_all_that_was_sent(app: BrokerApp, service: str) -> None:
    """The query as it was sent, a line feed, and the body: whoever has kept the request can show which one it was."""
    token = await app.token("planner", TICKETS, "tickets:read")
    await post(service + "?order=4711&note=%C3%BC", token, "amount=5")
    await post(service, token, "order=4711&note=%C3%BC\namount=5")
    digests = [entry["digest"] for entry in await app.entries("action.reserved")]
    sent = (b"order=4711&note=%C3%BC\namount=5", b"\norder=4711&note=%C3%BC\namount=5")
    assert digests == ["sha256:" + hashlib.sha256(one).hexdigest() for one in sent]


async def test_a_service_says_what_the_action_is_done_to(app: BrokerApp, service: str) -> None:
    """Target and arguments may be its own, whatever is in them; several actions may fall under one scope."""
    token = await app.token("planner", TICKETS, "tickets:read")
    assert (await post(service + "/T-1%0A%E2%82%AC" + "x" * 600, token))[0] == 200
    (entry,) = await app.entries("action.reserved")
    assert (entry["action"], entry["scope"], entry["target"]) == (
        "tickets:search",
        "tickets:read",
        "T-1?\u20ac" + "x" * 507,
    )
    assert entry["digest"] == "sha256:" + hashlib.sha256(("T-1\n\u20ac" + "x" * 600).encode()).hexdigest()


@pytest.mark.parametrize("settings", [("a b", ()), ("", ()), ("refund", ("a\u00e9",)), ("x" * 129, ())])
def test_settings_that_cannot_work_are_refused_at_the_start(settings: tuple[str, tuple[str, ...]]) -> None:
    """Not with the first request."""
    verifier = Verifier("https://broker.example", TICKETS, credentials=_no_token)
    with pytest.raises(Malformed):
        budgeted(verifier, Actions("https://broker.example", credentials=_no_token), *settings)


async def _no_token() -> str:
    return ""


async def test_the_token_is_checked_first(app: BrokerApp, service: str) -> None:
    """Without a good token with the scope, nothing is reserved."""
    assert (await post(service, "no.such.token"))[0] == 401
    other = await app.token("planner", TICKETS, "tickets:comment")
    assert (await post(service, other))[0] == 403
    assert not await app.entries("action.reserved")
