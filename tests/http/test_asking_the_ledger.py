"""Questions about a team's work, asked of the ledger over the API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from broker.ledger.reading import inquiries
from tests.support.broker_app import TICKETS, BrokerApp, Template, make_template, running_app
from tests.support.team import TEAM, TEAM_POLICY, claims_of, delegated, open_task

READING = TEAM_POLICY.replace('"operator:read", ', '"operator:read", "ledger:read", ')


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A folder of a broker with a team."""
    return make_template(tmp_path_factory.mktemp("team") / "broker", agents=TEAM, policy=READING)


@pytest.fixture
async def app(team: Template, tmp_path: Path) -> AsyncIterator[BrokerApp]:
    """A running broker for the team."""
    async with running_app(team, tmp_path / "broker") as running:
        yield running


async def _ask(app: BrokerApp, **query: str | int) -> list[dict[str, Any]]:
    """Return the entries of all pages."""
    token, found, cursor = await app.operator("ledger:read"), [], None
    while True:
        given = {**query, **({} if cursor is None else {"cursor": cursor})}
        reply = await app.call("GET", f"/v1/ledger/entries?{urlencode(given)}", token=token)
        assert reply.status == 200, reply.body
        found += [entry["entry"] for entry in reply.json["entries"]]
        cursor = reply.json["next"]
        if cursor is None:
            return found


async def test_a_token_with_its_descendants(app: BrokerApp) -> None:
    """The token, what was exchanged for it, what was exchanged for that, and what was done with them; no others."""
    task = (await open_task(app))["id"]
    parent = await app.token("planner", TICKETS, "tickets:read", task=task)
    child = await delegated(app, "worker", parent, audience=TICKETS, scope="tickets:read")
    grandchild = await delegated(app, "helper", child, audience=TICKETS, scope="tickets:read")
    await app.token("planner", TICKETS, "tickets:read", task=task)
    gateway = await app.token("gateway", "broker", "actions:reserve")
    body = {"token": grandchild, "action": "tickets:read"}
    reply = await app.call("POST", "/v1/actions", token=gateway, json=body)
    ids = [claims_of(token)["jti"] for token in (parent, child, grandchild)]
    found = await _ask(app, token=ids[0], limit=1)
    assert [entry["ref"] for entry in found if entry["kind"] == "token.issued"] == ids
    acted = [entry for entry in found if entry["kind"].startswith("action.")]
    assert reply.status in {201, 403}
    assert [entry["token"] for entry in acted] == [ids[2]]
    assert [entry["ref"] for entry in await _ask(app, token=ids[1], kind="token.issued")] == ids[1:]


async def test_a_task_with_its_subtree(app: BrokerApp) -> None:
    """What happened below a task is found with it, what happened beside it is not."""
    task = (await open_task(app))["id"]
    below = (await open_task(app, parent=task))["id"]
    token = await app.token("planner", TICKETS, "tickets:read", task=below)
    beside = (await open_task(app))["id"]
    await app.token("planner", TICKETS, "tickets:read", task=beside)
    found = await _ask(app, task=task)
    assert [entry["ref"] for entry in found] == [task, below, claims_of(token)["jti"]]
    assert [entry["ref"] for entry in await _ask(app, task=below)] == [below, claims_of(token)["jti"]]


async def test_a_planted_purpose(app: BrokerApp) -> None:
    """A purpose that is another one's name, or holds it in JSON's own quotes, makes no entry of that one."""
    await open_task(app, purpose="stranger")
    await open_task(app, purpose='x","agent":"stranger')
    assert [entry["kind"] for entry in await _ask(app, agent="stranger")] == ["agent.registered"]
    assert {entry["kind"] for entry in await _ask(app, agent="planner")} >= {"task.opened", "token.issued"}


async def test_kinds_times_and_incidents(app: BrokerApp) -> None:
    """Filters narrow each other down."""
    operator = await app.operator("revocations:write")
    body = {"selector": {"agent": "worker"}, "reason": "drill", "incident": "INC-7"}
    made = await app.call(
        "POST", "/v1/revocations", token=operator, json=body, headers={"Idempotency-Key": "drill-1-2-3-4-5-6"}
    )
    assert made.status == 201, made.body
    (rule,) = await _ask(app, incident="INC-7")
    assert (rule["kind"], rule["selector"]) == ("rule.added", {"agent": "worker"})
    assert rule in await _ask(app, agent="worker", kind="rule.,lease.", since="1h")
    assert await _ask(app, incident="INC-7", until="1h") == []
    assert await _ask(app, incident="INC-7", kind="token.") == []


async def test_a_page_looks_through_a_bounded_part(app: BrokerApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that few entries answer comes in short pages, none of which is lost."""
    for _ in range(6):
        await app.token("planner", TICKETS, "tickets:read")
    await app.token("worker", TICKETS, "tickets:read")
    monkeypatch.setattr(inquiries, "LOOKED_THROUGH", 2)
    first = await app.call(
        "GET", "/v1/ledger/entries?agent=worker&kind=token.issued", token=await app.operator("ledger:read")
    )
    assert first.json["entries"] == []
    assert first.json["next"] is not None
    assert len(await _ask(app, agent="worker", kind="token.issued")) == 1
    assert len(await _ask(app, agent="planner", kind="token.issued")) == 6


@pytest.mark.parametrize(
    "query", ["kind=nothing", "since=yesterday", "agent=", "agent=a&agent=b", "ref=a&agent=b", "who=a"]
)
async def test_questions_that_cannot_be_asked(app: BrokerApp, query: str) -> None:
    """They are refused, and say why."""
    reply = await app.call("GET", f"/v1/ledger/entries?{query}", token=await app.operator("ledger:read"))
    assert (reply.status, reply.json["code"]) == (400, "malformed_request")
