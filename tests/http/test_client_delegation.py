"""The client library against a real broker: exchange, and waiting for people."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.client import Client, KeyIdentity, TokenPending, TokenRefused
from tests.support.broker_app import TICKETS, BrokerApp, Template, make_template, running_app
from tests.support.team import REFUNDS, TEAM, TEAM_POLICY, claims_of, decide


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker with a team of agents."""
    return make_template(tmp_path_factory.mktemp("team") / "broker", TEAM_POLICY, TEAM)


@pytest.fixture
async def app(team: Template, tmp_path: Path) -> AsyncIterator[BrokerApp]:
    """Run it."""
    async with running_app(team, tmp_path / "broker") as running:
        yield running


def client_of(app: BrokerApp, agent: str, approval_seconds: float = 600) -> Client:
    """Return a client of an agent."""
    return Client(app.issuer, identity=KeyIdentity(agent, app.keys[agent]), approval_seconds=approval_seconds)


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
