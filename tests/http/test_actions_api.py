"""Actions over HTTP: reserved against the budget before, settled with their outcome after."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker_app import TICKETS, BrokerApp, Reply, Template, make_template, running_app
from tests.support.team import TEAM, TEAM_POLICY, claims_of, decide, delegated, open_task

DIGEST = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker with a team of agents."""
    return make_template(tmp_path_factory.mktemp("team") / "broker", TEAM_POLICY, TEAM)


@pytest.fixture
async def app(team: Template, tmp_path: Path) -> AsyncIterator[BrokerApp]:
    """Run it."""
    async with running_app(team, tmp_path / "broker") as running:
        yield running


class Gateway:
    """The resource server's side."""

    def __init__(self, app: BrokerApp, own: str) -> None:
        self._app = app
        self._own = own

    async def reserve(self, token: str, key: str | None = None, **wish: Any) -> Reply:  # noqa: ANN401 - JSON
        """Reserve, by default one reading of tickets."""
        body = {"token": token, "action": "tickets:read", "digest": DIGEST, **wish}
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self._app.call("POST", "/v1/actions", token=self._own, json=body, headers=headers)

    async def settle(self, action: str, outcome: str = "done") -> Reply:
        """Settle."""
        body = {"outcome": outcome, "result": "200"}
        return await self._app.call("POST", f"/v1/actions/{action}/settle", token=self._own, json=body)


@pytest.fixture
async def gateway(app: BrokerApp) -> Gateway:
    """The gateway with a token of its own."""
    return Gateway(app, await app.token("gateway", "broker", "actions:reserve"))


async def limited(app: BrokerApp, most: int) -> tuple[dict[str, Any], str]:
    """Open a task with a budget for reading tickets, and get a token in it."""
    task = await open_task(app, budget={"actions": {"tickets:read": most}})
    return task, await app.token("planner", TICKETS, "tickets:comment tickets:read", task=task["id"])


async def left(app: BrokerApp, task: str) -> int:
    """Return how many readings a task has left."""
    balances = (await app.services.records.task(task)).balances  # type: ignore[union-attr]
    return balances["action:tickets:read"].left


async def test_an_action_is_reserved_and_settled(app: BrokerApp, gateway: Gateway) -> None:
    """Both are in the ledger with who, what, for whom, and what came of it."""
    task, token = await limited(app, 3)
    reserved = await gateway.reserve(token, target="T-8812")
    assert reserved.status == 201, reserved.body
    action = reserved.json["action_id"]
    settled = await gateway.settle(action)
    assert (settled.status, settled.json["outcome"]) == (200, "done")
    first, last = (await app.entries("action.reserved"))[-1], (await app.entries("action.settled"))[-1]
    assert (first["agent"], first["by"], first["target"], first["task"]) == ("planner", "gateway", "T-8812", task["id"])
    assert (first["token"], first["digest"]) == (claims_of(token)["jti"], DIGEST)
    assert (last["ref"], last["outcome"], last["result"]) == (action, "done", "200")
    assert await left(app, task["id"]) == 2
    operator = await app.operator("operator:read")
    log = await app.call("GET", "/v1/actions", token=operator, params={"task": task["id"]})
    assert [known["action_id"] for known in log.json["actions"]] == [action]


async def test_what_is_left_is_told(app: BrokerApp, gateway: Gateway) -> None:
    """A reservation says how many more there may be, also when it is asked for again; nothing of it is in the log."""
    _, token = await limited(app, 10)
    assert (await gateway.reserve(token, count=4)).json["left"] == 6
    first = await gateway.reserve(token, key="k")
    again = await gateway.reserve(token, key="k")
    assert (first.json["left"], again.json["left"], again.status) == (5, 5, 201)
    assert first.json == again.json
    free = await gateway.reserve(await app.token("planner", TICKETS, "tickets:read"))
    assert free.json["left"] is None
    assert "left" not in (await gateway.settle(first.json["action_id"])).json


async def test_two_hundred_at_once_get_exactly_what_there_is(app: BrokerApp, gateway: Gateway) -> None:
    """Of 200 reservations at the same time against a budget of 50, exactly 50 are made."""
    policy = app.broker.config.policy
    policy.write_text(policy.read_text().replace("budget_approval", "# budget_approval"))
    from tests.support.broker_app import HERE  # noqa: PLC0415

    await app.broker.policy_control.reload(by="operator", caller=HERE)
    task, token = await limited(app, 50)
    replies = await asyncio.gather(*(gateway.reserve(token) for _ in range(200)))
    assert Counter(reply.status for reply in replies) == {201: 50, 409: 150}
    assert {reply.json["code"] for reply in replies if reply.status == 409} == {"budget_used_up"}
    assert await left(app, task["id"]) == 0
    assert len(await app.entries("action.reserved")) == 50


async def test_what_was_not_done_goes_back(app: BrokerApp, gateway: Gateway) -> None:
    """A reservation that came to nothing can be made again; one that was done cannot."""
    task, token = await limited(app, 1)
    first = (await gateway.reserve(token)).json["action_id"]
    assert (await gateway.settle(first, "not_done")).status == 200
    assert await left(app, task["id"]) == 1
    second = (await gateway.reserve(token)).json["action_id"]
    await gateway.settle(second)
    assert await left(app, task["id"]) == 0


async def test_settling_is_said_once(app: BrokerApp, gateway: Gateway) -> None:
    """The same outcome again changes nothing; another one, or that of nobody's reservation, is refused."""
    _, token = await limited(app, 3)
    action = (await gateway.reserve(token)).json["action_id"]
    assert (await gateway.settle(action)).status == 200
    assert (await gateway.settle(action)).status == 200
    assert (await gateway.settle(action, "not_done")).json["code"] == "conflict"
    assert (await gateway.settle("act_00000000000000000000000000")).status == 404
    assert len(await app.entries("action.settled")) == 1


async def test_settling_works_after_the_task_was_closed(app: BrokerApp, gateway: Gateway) -> None:
    """The outcome of what was begun is recorded, whatever became of the task; nothing new begins in it."""
    task, token = await limited(app, 3)
    sub = await open_task(app, parent=task["id"], budget={"actions": {"tickets:read": 2}})
    inner = await app.token("planner", TICKETS, "tickets:read", task=sub["id"])
    action = (await gateway.reserve(inner)).json["action_id"]
    assert await left(app, task["id"]) == 1  # two are reserved for the sub-task
    closing = await app.token("planner", "broker", "tasks:close")
    await app.call("DELETE", f"/v1/tasks/{sub['id']}", token=closing)
    assert await left(app, task["id"]) == 2  # one was used, one came back
    assert (await gateway.reserve(inner)).json["code"] == "subject_token_invalid"
    assert (await gateway.settle(action, "not_done")).status == 200
    assert await left(app, task["id"]) == 3
    assert (await gateway.reserve(token)).status == 201


async def test_a_repeated_request_reserves_once(app: BrokerApp, gateway: Gateway) -> None:
    """An Idempotency-Key answers the same reservation; for another request it is refused."""
    task, token = await limited(app, 3)
    first, second = await gateway.reserve(token, "k"), await gateway.reserve(token, "k")
    assert first.json["action_id"] == second.json["action_id"]
    assert (await gateway.reserve(token, "k", count=2)).json["code"] == "idempotency_key_reused"
    assert await left(app, task["id"]) == 2


async def test_an_implicit_task_has_the_budget_of_its_role(app: BrokerApp, gateway: Gateway) -> None:
    """A token for which no task was opened is held to the role's limits, its descendants together with it."""
    from tests.support.broker_app import HERE  # noqa: PLC0415

    policy = app.broker.config.policy
    policy.write_text(policy.read_text().replace("task_ttl: 1h", "task_ttl: 1h, actions: {'tickets:read': 2}"))
    await app.broker.policy_control.reload(by="operator", caller=HERE)
    token = await app.token("planner", TICKETS, "tickets:comment tickets:read")
    assert (await gateway.reserve(token)).status == 201
    child = await delegated(app, "worker", token)
    assert (await gateway.reserve(child)).status == 201
    assert (await gateway.reserve(token)).json["code"] == "authorization_pending"
    assert (await gateway.reserve(token, action="tickets:comment")).json["code"] == "authorization_pending"


@pytest.mark.parametrize(
    ("wish", "status", "code"),
    [
        ({"action": "tickets:close"}, 403, "insufficient_scope"),
        ({"action": "anything", "scope": "tickets:close"}, 403, "insufficient_scope"),
        ({"action": "a b"}, 400, "malformed_request"),
        ({"count": 0}, 400, "malformed_request"),
        ({"count": 1001}, 400, "malformed_request"),
        ({"count": True}, 400, "malformed_request"),
        ({"digest": "sha256:0"}, 400, "malformed_request"),
        ({"target": "a\nb"}, 400, "malformed_request"),
        ({"made_up": 1}, 400, "unknown_field"),
        ({"token": "x.y.z"}, 400, "subject_token_invalid"),
    ],
)
async def test_what_cannot_be_reserved(
    app: BrokerApp, gateway: Gateway, wish: dict[str, Any], status: int, code: str
) -> None:
    """Each has its code, and nothing is taken from the budget."""
    task, token = await limited(app, 3)
    reply = await gateway.reserve(**{"token": token, **wish})
    assert (reply.status, reply.json["code"]) == (status, code), reply.body
    assert await left(app, task["id"]) == 3


async def test_a_token_for_another_resource_tells_nothing(app: BrokerApp, gateway: Gateway) -> None:
    """A gateway learns nothing about tokens that are not for what it serves."""
    other = await app.token("planner", "broker", "tasks:open")
    assert (await gateway.reserve(other)).json["code"] == "subject_token_invalid"


async def test_a_used_up_budget_is_lifted_by_a_person(app: BrokerApp, gateway: Gateway) -> None:
    """The answer is a pause; once a person agreed, the same request goes through, with the ancestors' limits raised."""
    task, _ = await limited(app, 1)
    sub = await open_task(app, parent=task["id"], budget={"actions": {"tickets:read": 1}})
    token = await app.token("planner", TICKETS, "tickets:read", task=sub["id"])
    assert (await gateway.reserve(token)).status == 201
    paused = await gateway.reserve(token)
    assert (paused.status, paused.json["code"]) == (409, "authorization_pending")
    request = paused.json["auth_req_id"]
    assert (await gateway.reserve(token, auth_req_id=request)).json["code"] in {"authorization_pending", "slow_down"}
    await decide(app, "carol", request)
    assert (await gateway.reserve(token, action="tickets:read", auth_req_id=request)).status == 201
    assert await left(app, sub["id"]) == 1  # two were added, one is used
    assert await left(app, task["id"]) == 0
    assert (await gateway.reserve(token, auth_req_id=request)).status == 201
    assert (await gateway.reserve(token, auth_req_id=request)).json["code"] == "authorization_pending"
