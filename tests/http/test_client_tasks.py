"""Tasks as an agent works in them: opened at the start of a block, kept alive while it runs, closed at its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from broker.client import Client, KeyIdentity, TaskRefused, TaskUnavailable, TokenRefused
from broker.core.errors import Code
from tests.support.broker_app import TICKETS, BrokerApp, Template, make_template, running_app
from tests.support.fake_broker import FakeBroker, answering
from tests.support.team import TEAM, TEAM_POLICY, claims_of, is_active
from tests.support.virtual_time import VirtualTime

POLICY = TEAM_POLICY.replace(
    "may_delegate_to: [workers]", "may_delegate_to: [workers, {role: hands, own_grants: true}]"
)
POLICY = POLICY.replace(
    "  gateways:\n",
    """\
  hands:
    members: [{agent: stranger}]
    allow:
      - {audience: broker, scopes: ["tasks:open", "tasks:close"]}
      - {audience: https://tickets.internal, scopes: ["tickets:read"]}
  gateways:
""",
)


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker with a team of agents."""
    return make_template(tmp_path_factory.mktemp("team") / "broker", POLICY, TEAM)


@pytest.fixture
async def app(team: Template, tmp_path: Path) -> AsyncIterator[BrokerApp]:
    """Run it."""
    async with running_app(team, tmp_path / "broker") as running:
        yield running


def client_of(app: BrokerApp, agent: str = "planner", *, dpop: bool = False) -> Client:
    """Return a client of an agent."""
    return Client(app.issuer, identity=KeyIdentity(agent, app.keys[agent]), dpop=dpop)


async def state_of(app: BrokerApp, task: str) -> str:
    """Return what the broker says of a task."""
    token = await app.token("planner", "broker", "tasks:read")
    reply = await app.call("GET", f"/v1/tasks/{task}", token=token)
    return str(reply.json["state"])


@pytest.mark.parametrize("dpop", [False, True])
async def test_tokens_end_with_the_block(app: BrokerApp, dpop: bool) -> None:
    """They belong to the task, within its ceiling; afterwards they are dead, and not handed out any more."""
    async with client_of(app, dpop=dpop) as client:
        ceiling = {TICKETS: ["tickets:read"]}
        budget = {"tokens": 2, "actions": {"tickets:merge": 1}}
        async with client.open_task("sort", ttl="10m", scopes=ceiling, budget=budget, labels={"run": "7"}) as task:
            token = await client.token(TICKETS, ["tickets:read"], task=task.id)
            assert claims_of(token.access_token)["broker"]["task"] == task.id
            assert await is_active(app, token.access_token)
            with pytest.raises(TokenRefused) as refused:
                await client.token(TICKETS, ["tickets:comment"], task=task.id)
            assert refused.value.code is Code.TASK_CEILING
            assert task.state["labels"] == {"run": "7"}
            assert not task.is_over
        assert task.is_over
        assert await state_of(app, task.id) == "closed"
        assert not await is_active(app, token.access_token)
        with pytest.raises(TokenRefused) as refused:
            await client.token(TICKETS, ["tickets:read"], task=task.id)
        assert refused.value.code is Code.TASK_NOT_OPEN


async def test_a_block_that_fails_closes_its_task(app: BrokerApp) -> None:
    """And so does one that is cancelled; the error that ended it goes on."""
    async with client_of(app) as client:
        with pytest.raises(ZeroDivisionError):
            async with client.open_task("divide") as failed:
                raise ZeroDivisionError
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), client.open_task("wait") as cancelled:
                await asyncio.Event().wait()
    assert [await state_of(app, task.id) for task in (failed, cancelled)] == ["closed", "closed"]


async def test_tasks_within_tasks(app: BrokerApp) -> None:
    """A part reserves from the whole; closing the whole closes what was left open in it, and the inner block copes."""
    async with (
        client_of(app) as client,
        client.open_task("whole", budget={"tokens": 5}) as whole,
        client.open_task("part", parent=whole.id, budget={"tokens": 2}) as part,
    ):
        assert part.state["parent"] == whole.id
        await whole.heartbeat()
        await whole.close()
        assert await state_of(app, part.id) == "closed"
        with pytest.raises(TaskRefused) as refused:
            await part.heartbeat()
        assert refused.value.code is Code.TASK_NOT_OPEN


async def test_a_sub_agent_opens_a_part_of_a_task_that_it_was_handed(app: BrokerApp) -> None:
    """With a token for the broker's API of that task; with its own it could not."""
    api = f"{app.issuer}/v1"
    ceiling = {TICKETS: ["tickets:read"], api: ["tasks:open", "tasks:close"]}
    async with (
        client_of(app) as planner,
        client_of(app, "stranger") as hands,
        planner.open_task("whole", scopes=ceiling) as whole,
    ):
        handed = await planner.token(api, ["tasks:close", "tasks:open"], task=whole.id, may_act="stranger")
        async with hands.open_task("part", parent=whole.id, subject_token=handed) as part:
            assert part.state["path"] == [whole.id]
        assert await state_of(app, part.id) == "closed"
        with pytest.raises(TaskRefused) as refused:
            await hands.open_task("part", parent=whole.id).open()
        assert refused.value.code is Code.NOT_FOUND


async def test_what_may_not_be_opened(app: BrokerApp) -> None:
    """The block does not run; the broker's reason is there."""
    async with client_of(app) as client:
        for wish in ({"scopes": {TICKETS: ["tickets:close"]}}, {"idle_timeout": 1}, {"ttl": "3h"}):
            with pytest.raises(TaskRefused):
                async with client.open_task("sort", **wish):
                    pytest.fail("it was not opened")
        with pytest.raises(RuntimeError):
            _ = client.open_task("sort").id


# --- when the broker is away -----------------------------------------------------------------------------------------

STATE = {"id": "task_1", "idle_timeout": 30, "state": "open"}
BEAT, TASK = "/v1/tasks/task_1/heartbeat", "/v1/tasks/task_1"


@pytest.fixture
async def fake() -> AsyncIterator[FakeBroker]:
    """A broker that fails as the test says."""
    made = FakeBroker(lambda: VirtualTime().wall)
    await made.start()
    made.faults["/v1/tasks"] = answering(201, STATE)
    made.faults[BEAT] = answering(200, STATE)
    made.faults[TASK] = answering(200, STATE)
    yield made
    await made.stop()


def fake_client(fake: FakeBroker, app_key: Template, time: VirtualTime) -> Client:
    """Return a client of that broker."""
    return Client(fake.url, identity=KeyIdentity("planner", app_key.keys["planner"]), timing=time.timing())


async def until(fake: FakeBroker, path: str, count: int) -> None:
    """Wait until a path was asked so often."""
    async with asyncio.timeout(10):
        while fake.asked[path] < count:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)


async def sleeping(time: VirtualTime) -> None:
    """Wait until the heart waits for its next beat."""
    async with asyncio.timeout(10):
        while not time.sleepers:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)


async def test_it_is_kept_alive(fake: FakeBroker, team: Template) -> None:
    """Three heartbeats in each idle time-out, and none once the block is over."""
    time = VirtualTime(flows=False)
    async with fake_client(fake, team, time) as client:
        async with client.open_task("sort", idle_timeout=30):
            for beat in range(1, 4):
                await sleeping(time)
                assert fake.asked[BEAT] == beat - 1
                time.advance(10)
                await until(fake, BEAT, beat)
            await sleeping(time)
        assert fake.asked[TASK] == 1
        time.advance(100)
        await asyncio.sleep(0.05)
    assert fake.asked[BEAT] == 3
    assert set(time.slept) == {10.0}


async def test_a_heart_that_misses_a_beat_goes_on(
    fake: FakeBroker, team: Template, caplog: pytest.LogCaptureFixture
) -> None:
    """A refusal that is not about the task's end is logged, and tried again; its end stops the heart."""
    time = VirtualTime(flows=False)
    caplog.set_level(logging.WARNING, "broker.client")
    fake.faults[BEAT] = answering(403, {"code": "insufficient_scope", "detail": "not\x1b now"})
    async with fake_client(fake, team, time) as client, client.open_task("sort") as task:
        await sleeping(time)
        time.advance(10)
        await sleeping(time)
        assert not task.is_over
        fake.faults[BEAT] = answering(409, {"code": "task_not_open", "title": "The task is not open"})
        time.advance(10)
        async with asyncio.timeout(10):
            while not task.is_over:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        assert time.sleepers == 0
    assert [record.getMessage() for record in caplog.records] == [
        "a heartbeat of the task task_1 failed: not? now",
        "a heartbeat of the task task_1 failed: The task is not open",
    ]


async def test_an_answer_that_is_lost_opens_no_second_task(fake: FakeBroker, team: Template) -> None:
    """The request is repeated under the same key, and with a new token when the one at hand is refused."""
    keys: list[str | None] = []
    tokens: list[str | None] = []

    async def lose(request: web.Request) -> web.Response:
        keys.append(request.headers.get("Idempotency-Key"))
        tokens.append(request.headers.get("Authorization"))
        if len(keys) < 4:
            return web.json_response({"code": "token_revoked"}, status=[502, 401, 503][len(keys) - 1])
        return web.json_response({"id": "task_1"}, status=201)

    fake.faults["/v1/tasks"] = lose
    async with fake_client(fake, team, VirtualTime()) as client, client.open_task("sort"):
        pass
    assert len(keys) == 4
    assert len(set(keys)) == 1
    assert keys[0]
    assert tokens[0] == tokens[1] != tokens[2] == tokens[3]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"\xff", b'{"id": 7}', b'{"id": ""}', b'{"id": "../agents"}', b'{"id": "a/b"}', b"{}"]
)
async def test_an_answer_that_names_no_task_is_none(fake: FakeBroker, team: Template, body: bytes) -> None:
    """Nothing is done with an id that could lead to another path."""
    fake.faults["/v1/tasks"] = answering(201, body)
    async with fake_client(fake, team, VirtualTime()) as client:
        with pytest.raises(TaskUnavailable):
            async with client.open_task("sort"):
                pytest.fail("it was not opened")


async def test_who_is_refused_for_good_is_told(fake: FakeBroker, team: Template) -> None:
    """A token that is refused twice is not replaced for ever."""
    fake.faults["/v1/tasks"] = answering(401, {"code": "token_revoked", "detail": "no"})
    async with fake_client(fake, team, VirtualTime()) as client:
        with pytest.raises(TaskRefused) as refused:
            await client.open_task("sort").open()
    assert (refused.value.status, refused.value.code) == (401, Code.TOKEN_REVOKED)
    assert fake.asked["/v1/tasks"] == 2


async def test_closing_that_fails_hides_no_error(
    fake: FakeBroker, team: Template, caplog: pytest.LogCaptureFixture
) -> None:
    """The block's own error is the one that counts; without one, the caller learns that the task may still be open."""
    fake.faults[TASK] = answering(503)
    async with fake_client(fake, team, VirtualTime()) as client:
        with pytest.raises(ZeroDivisionError):
            async with client.open_task("divide"):
                raise ZeroDivisionError
        assert [record.getMessage() for record in caplog.records] == [
            "closing the task task_1 failed: the broker answers 503"
        ]
        with pytest.raises(TaskUnavailable, match="503"):
            async with client.open_task("sort"):
                pass
