"""The client library against a real broker: exchange, and waiting for people."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from broker.client import Client, KeyIdentity, TokenPending, TokenRefused
from broker.core.errors import Code
from broker.timing import SYSTEM
from tests.support.broker_app import TICKETS, BrokerApp, Template, make_template, running_app
from tests.support.team import REFUNDS, TEAM, TEAM_POLICY, claims_of, decide, is_active


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker with a team of agents."""
    return make_template(tmp_path_factory.mktemp("team") / "broker", TEAM_POLICY, TEAM)


@pytest.fixture
async def app(team: Template, tmp_path: Path) -> AsyncIterator[BrokerApp]:
    """Run it."""
    async with running_app(team, tmp_path / "broker") as running:
        yield running


def client_of(app: BrokerApp, agent: str, approval_seconds: float = 600, *, dpop: bool = False) -> Client:
    """Return a client of an agent."""
    identity = KeyIdentity(agent, app.keys[agent])
    return Client(app.issuer, identity=identity, approval_seconds=approval_seconds, dpop=dpop)


def hurried(app: BrokerApp, told: asyncio.Queue[str], *, dpop: bool = False) -> Client:
    """Return a client of ``planner`` that does not wait between two questions, and says what it waits for."""
    identity = KeyIdentity("planner", app.keys["planner"])
    timing = replace(SYSTEM, sleep=lambda _seconds: asyncio.sleep(0))
    return Client(
        app.issuer, identity=identity, on_pending=lambda one, _: told.put_nowait(one), timing=timing, dpop=dpop
    )


async def test_a_client_exchanges_a_token(app: BrokerApp) -> None:
    """A sub-agent gets a token of its own that comes of its coordinator's."""
    async with client_of(app, "planner") as planner, client_of(app, "worker") as worker:
        parent = await planner.token(TICKETS, ["tickets:comment", "tickets:read"])
        child = await worker.exchange(parent.access_token, TICKETS, ["tickets:read"])
    assert claims_of(child.access_token)["act"] == {"sub": "worker"}
    assert child.scopes == ("tickets:read",)


async def test_a_client_waits_for_people_by_itself(app: BrokerApp) -> None:
    """The caller just waits; the request is put before people once, and the token comes when they agreed."""
    told: list[str] = []
    agreed = asyncio.Event()

    def on_pending(auth_req_id: str, _expires_in: int) -> None:
        told.append(auth_req_id)
        agreed.set()

    key = KeyIdentity("planner", app.keys["planner"])
    async with Client(app.issuer, identity=key, on_pending=on_pending) as planner:
        waiting = asyncio.ensure_future(planner.token(REFUNDS, ["refunds:create"]))
        await asyncio.wait_for(agreed.wait(), 10)
        await decide(app, "carol", told[0])
        token = await asyncio.wait_for(waiting, 10)
    assert token.approved
    assert len(told) == 1
    assert len(await app.entries("approval.requested")) == 1


async def test_a_client_that_does_not_wait_goes_on_later(app: BrokerApp) -> None:
    """Without patience for people the call says what it waits for; asking again goes on with the same request."""
    async with client_of(app, "planner", approval_seconds=0) as planner:
        with pytest.raises(TokenPending) as pending:
            await planner.token(REFUNDS, ["refunds:create"])
        await decide(app, "carol", pending.value.auth_req_id)
        token = await planner.token(REFUNDS, ["refunds:create"])
    assert claims_of(token.access_token)["scope"] == "refunds:create"
    assert len(await app.entries("approval.requested")) == 1


async def test_a_denial_reaches_the_caller(app: BrokerApp) -> None:
    """A person's no is final for the request."""
    async with client_of(app, "planner", approval_seconds=0) as planner:
        with pytest.raises(TokenPending) as pending:
            await planner.token(REFUNDS, ["refunds:create"])
        await decide(app, "carol", pending.value.auth_req_id, "deny")
        with pytest.raises(TokenRefused) as refused:
            await planner.token(REFUNDS, ["refunds:create"])
    assert refused.value.error == "access_denied"


@pytest.mark.parametrize("dpop", [False, True])
async def test_the_broker_answers_as_soon_as_people_have(app: BrokerApp, dpop: bool) -> None:
    """One question, held back until the decision, however eager the client is; the proof of its key still counts."""
    told: asyncio.Queue[str] = asyncio.Queue()
    async with hurried(app, told, dpop=dpop) as planner:
        waiting = asyncio.ensure_future(planner.token(REFUNDS, ["refunds:create"]))
        request = await asyncio.wait_for(told.get(), 10)
        await decide(app, "carol", request)
        token = await asyncio.wait_for(waiting, 10)
    assert token.token_type == ("DPoP" if dpop else "Bearer")
    asked = [line for line in app.events.of("request") if line["route"] == "/oauth2/token"]
    assert [line["code"] for line in asked if line["agent"] != "carol"] == ["authorization_pending", None]


async def test_a_lifted_budget_and_an_approval_in_one_call(app: BrokerApp) -> None:
    """People are asked about each in turn; the caller is told of both, and sees one token."""
    told: asyncio.Queue[str] = asyncio.Queue()
    async with hurried(app, told) as planner, planner.open_task("refund", budget={"tokens": 1}) as task:
        await planner.token(TICKETS, ["tickets:read"], task=task.id)
        waiting = asyncio.ensure_future(planner.token(REFUNDS, ["refunds:create"], task=task.id))
        requests = []
        while not waiting.done():
            asked = asyncio.ensure_future(told.get())
            await asyncio.wait([asked, waiting], timeout=20, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                requests.append(asked.result())
                assert (await decide(app, "carol", requests[-1])).status == 200
            else:
                asked.cancel()
        token = await waiting
    kinds = {entry["ref"]: entry["approval_kind"] for entry in await app.entries("approval.requested")}
    assert {kinds[request] for request in requests} == {"budget", "token"}
    assert len(set(requests)) == len(requests)
    assert claims_of(token.access_token)["broker"]["task"] == task.id


async def test_another_process_goes_on_with_a_request(app: BrokerApp) -> None:
    """With the id that the first one was told, and exactly the same wish; with another wish it is refused."""
    async with client_of(app, "planner", approval_seconds=0) as first:
        with pytest.raises(TokenPending) as pending:
            await first.token(REFUNDS, ["refunds:create"])
    request = pending.value.auth_req_id
    await decide(app, "carol", request)
    async with client_of(app, "planner") as second:
        with pytest.raises(TokenRefused) as refused:
            await second.token(REFUNDS, ["refunds:create"], may_act="worker", auth_req_id=request)
        assert refused.value.error == "invalid_grant"
        assert (await second.token(REFUNDS, ["refunds:create"], auth_req_id=request)).approved


async def test_a_line_of_agents_bound_to_keys(app: BrokerApp) -> None:
    """Each token is bound to the key of its own holder, has less than the one before, and dies with the first."""
    details = [{"type": "ticket", "ids": ["T-1", "T-2"]}]
    async with (
        client_of(app, "planner", dpop=True) as planner,
        client_of(app, "worker", dpop=True) as worker,
        client_of(app, "helper", dpop=True) as helper,
        client_of(app, "helper") as unbound,
    ):
        first = await planner.token(TICKETS, ["tickets:comment", "tickets:read"], details=details, may_act="worker")
        with pytest.raises(TokenRefused) as stranger:
            await helper.exchange(first, TICKETS)
        assert stranger.value.code is Code.DELEGATION_NOT_ALLOWED
        second = await worker.exchange(first, TICKETS, details=[{"type": "ticket", "ids": ["T-1", "T-2"]}])
        assert second.scopes == ("tickets:read",)
        with pytest.raises(TokenRefused) as bearer:
            await unbound.exchange(second, TICKETS)
        assert bearer.value.code is Code.PROOF_REQUIRED
    claims = [claims_of(token.access_token) for token in (first, second)]
    assert claims[0]["cnf"] != claims[1]["cnf"]
    assert claims[1]["act"] == {"sub": "worker"}
    assert second.details == ({"ids": ["T-1", "T-2"], "type": "ticket"},)
    operator = await app.operator("revocations:write")
    body = {"selector": {"token": claims[0]["jti"]}, "reason": "leaked"}
    await app.call("POST", "/v1/revocations", token=operator, json=body, headers={"Idempotency-Key": "one"})
    assert not await is_active(app, second.access_token)


async def test_break_glass_from_the_client(app: BrokerApp) -> None:
    """The token comes at once, with its reason on record."""
    async with client_of(app, "planner") as planner:
        token = await planner.token(REFUNDS, ["refunds:create"], break_glass="the customer is at the door")
    (entry,) = [one for one in await app.entries("token.issued") if "break_glass" in one]
    assert (entry["break_glass"], entry["ref"]) == (
        "the customer is at the door",
        claims_of(token.access_token)["jti"],
    )
