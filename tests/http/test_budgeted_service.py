"""A service whose calls are counted: one decorator, and nothing is done more often than the task allows."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from broker.client import Client, KeyIdentity
from broker.verifier import Actions, Verifier
from broker.verifier.aiohttp import APPROVAL, RESERVATION, budgeted
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

        serving = web.Application()
        serving.add_routes([web.post("/tickets", read)])
        runner = web.AppRunner(serving)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield f"http://127.0.0.1:{port}/tickets"
        finally:
            await runner.cleanup()


async def post(url: str, token: str, how: str = "", approval: str | None = None) -> tuple[int, dict[str, object]]:
    """Call the service."""
    headers = {"Authorization": f"Bearer {token}"} | ({} if approval is None else {APPROVAL: approval})
    async with aiohttp.ClientSession() as http, http.post(url, data=how, headers=headers) as reply:
        problem = await reply.json(content_type=None) if reply.status in (401, 403, 409) else {}
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
    assert (await post(service, token, approval=request))[0] == 200


async def test_the_token_is_checked_first(app: BrokerApp, service: str) -> None:
    """Without a good token with the scope, nothing is reserved."""
    assert (await post(service, "no.such.token"))[0] == 401
    other = await app.token("planner", TICKETS, "tickets:comment")
    assert (await post(service, other))[0] == 403
    assert not await app.entries("action.reserved")
