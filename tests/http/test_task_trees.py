"""Large trees of tasks over HTTP: closed by one call, dead offline, and with sound budgets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from broker.core.errors import BrokerError, Code
from broker.core.task import MAX_TASK_DEPTH, TaskState
from broker.ledger.verify import verify_file
from broker.verifier import Verifier
from tests.support.broker_app import TICKETS, BrokerApp, Template, make_template, running_app
from tests.support.team import TEAM, TEAM_POLICY, delegated

WIDTH = 1_000
TOKENS = 5_000
SCOPES = "tasks:close tasks:open tasks:read"
AT_ONCE = 50

T = TypeVar("T")


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker with a team of agents, whose planner may open many tasks."""
    policy = TEAM_POLICY.replace("task_ttl: 1h", "task_ttl: 1h, tasks_per_minute: 100000")
    return make_template(tmp_path_factory.mktemp("team") / "broker", policy, TEAM)


@pytest.fixture
async def app(team: Template, tmp_path: Path) -> AsyncIterator[BrokerApp]:
    """Run it."""
    async with running_app(team, tmp_path / "broker") as running:
        yield running


class Tree:
    """A tree of tasks of one agent."""

    def __init__(self, app: BrokerApp, own: str) -> None:
        self._app = app
        self._own = own

    async def open(self, tokens: int, parent: str | None = None) -> str:
        """Open a task, and return its id."""
        wish: dict[str, Any] = {"purpose": "a part of the work", "budget": {"tokens": tokens}}
        if parent is not None:
            wish["parent"] = parent
        reply = await self._app.call("POST", "/v1/tasks", token=self._own, json=wish)
        assert reply.status == 201, reply.body
        return str(reply.json["id"])

    async def token(self, task: str) -> str:
        """Get a token in a task."""
        return await self._app.token("planner", TICKETS, "tickets:read", task=task)

    async def state(self, task: str) -> TaskState:
        """Return a task as it is stored."""
        state = await self._app.services.records.task(task)
        assert state is not None
        return state

    async def left(self, task: str) -> tuple[int, int, int]:
        """Return how many tokens a task has used, has reserved for others, and has left."""
        balance = (await self.state(task)).balances["tokens"]
        return balance.used, balance.reserved, balance.left


async def some_at_once(work: Iterable[Awaitable[T]]) -> list[T]:
    """Do everything, a few things at a time, and return what comes of it in order."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(item: Awaitable[T]) -> T:
        async with gate:
            return await item

    return await asyncio.gather(*(one(item) for item in work))


async def alive(verifier: Verifier, tokens: Iterable[str]) -> list[bool]:
    """Return which tokens a resource server takes, without asking anybody."""

    async def said(token: str) -> Code | None:
        try:
            await verifier.verify(token)
        except BrokerError as error:
            return error.code
        return None

    answers = [await said(token) for token in tokens]
    assert set(answers) <= {None, Code.TOKEN_REVOKED}
    return [answer is None for answer in answers]


async def followed(verifier: Verifier, epoch: int) -> None:
    """Wait until a verifier knows all rules."""
    async with asyncio.timeout(20):
        while verifier.epoch != epoch:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)


async def test_a_tree_of_the_greatest_depth_and_a_width_of_1000_ends_by_one_call(app: BrokerApp) -> None:
    """One rule ends 1,065 tasks and all that they and their delegates hold; what was used stays counted at the root."""
    tree = Tree(app, await app.token("planner", "broker", SCOPES))
    root, beside = await tree.open(TOKENS), await tree.open(10)
    chain = [root]
    for depth in range(1, MAX_TASK_DEPTH + 1):
        chain.append(await tree.open(MAX_TASK_DEPTH + 1 - depth, chain[-1]))
    body = {"purpose": "too deep", "budget": {"tokens": 0}, "parent": chain[-1]}
    own = await app.token("planner", "broker", SCOPES)
    too_deep = await app.call("POST", "/v1/tasks", token=own, json=body)
    assert too_deep.json["code"] == "task_ceiling"
    wide = await some_at_once(tree.open(2, root) for _ in range(WIDTH))
    assert await tree.left(root) == (0, MAX_TASK_DEPTH + 2 * WIDTH, TOKENS - MAX_TASK_DEPTH - 2 * WIDTH)

    tokens = await some_at_once(tree.token(task) for task in (*chain, *wide[:100]))
    tokens += [await delegated(app, "worker", token) for token in (tokens[0], tokens[-1])]
    bystander = await tree.token(beside)

    async def own_token() -> str:
        return await app.token("gateway", "broker", "revocations:read")

    async with Verifier(app.issuer, TICKETS, credentials=own_token, poll=0.1) as verifier:
        assert all(await alive(verifier, (*tokens, bystander)))
        started = time.perf_counter()
        closed = await app.call("DELETE", f"/v1/tasks/{root}", token=own)
        assert (closed.status, closed.json["state"]) == (200, "closed"), closed.body
        assert time.perf_counter() - started < 5
        await followed(verifier, closed.json["revocation"]["rule"])
        assert not any(await alive(verifier, tokens))
        assert await alive(verifier, [bystander]) == [True]

    records = app.services.records
    assert len(await records.rules()) == 1
    assert await records.tasks(below=root, open_at=time.time(), limit=10) == []
    used = len(tokens)
    assert await tree.left(root) == (used, 0, TOKENS - used)
    assert await tree.left(beside) == (1, 0, 9)
    again = await app.ask(app.form("planner", resource=TICKETS, scope="tickets:read", task=chain[-1]))
    assert again.json["code"] == "task_not_open"
    assert (await asyncio.to_thread(verify_file, app.file)).problems == ()


async def test_tasks_that_close_one_by_one_give_back_what_they_did_not_use(app: BrokerApp) -> None:
    """From the leaves up or from the middle: at every moment the root's limit is what was used, reserved and left."""
    tree = Tree(app, await app.token("planner", "broker", SCOPES))
    root = await tree.open(200)
    middle = await some_at_once(tree.open(30, root) for _ in range(5))
    leaves = await some_at_once(tree.open(5, one) for one in middle for _ in range(3))
    await some_at_once(tree.token(task) for task in (root, *middle, *leaves, *leaves))
    own = await app.token("planner", "broker", SCOPES)
    ended: set[str] = set()
    for task in (*leaves[:6], *middle[1:4]):
        assert (await app.call("DELETE", f"/v1/tasks/{task}", token=own)).status == 200
        ended |= {task} & set(middle)
        used, held = 1 + 7 * len(ended), 30 * (len(middle) - len(ended))
        assert await tree.left(root) == (used, held, 200 - used - held)
    assert await tree.left(middle[0]) == (1 + 3 * 2, 0, 30 - 7)
    assert (await app.call("DELETE", f"/v1/tasks/{root}", token=own)).status == 200
    assert await tree.left(root) == (36, 0, 164)
    assert (await asyncio.to_thread(verify_file, app.file)).problems == ()
