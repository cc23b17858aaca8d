"""Many processes reserve from one budget at the same time, and a crash in the middle loses and doubles nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.running_broker import TICKETS, RunningBroker

POLICY = """
version: 1
audiences:
  https://tickets.internal: {scopes: {"tickets:read": {tier: read}}, served_by: [{agent: gateway}]}
tiers: {read: {max_ttl: 15m}}
roles:
  workers:
    members: [{agent: alpha}]
    allow:
      - {audience: https://tickets.internal, scopes: ["tickets:read"]}
      - {audience: broker, scopes: ["tasks:open", "tasks:read"]}
  gateways:
    members: [{agent: gateway}]
    allow: [{audience: broker, scopes: ["actions:reserve"]}]
  operators:
    members: [{agent: operator}]
    allow: [{audience: broker, scopes: ["operator:read", "agents:write"]}]
"""

WORKER = """
import asyncio, json, sys
import aiohttp

async def main(issuer, own, token, count):
    async with aiohttp.ClientSession() as http:
        async def one():
            body, headers = {"token": token, "action": "tickets:read"}, {"Authorization": "Bearer " + own}
            try:
                async with http.post(issuer + "/v1/actions", json=body, headers=headers) as reply:
                    answer = await reply.json()
                    print(json.dumps([reply.status, answer.get("action_id")]), flush=True)
            except (aiohttp.ClientError, OSError):
                print(json.dumps([0, None]), flush=True)
        await asyncio.gather(*(one() for _ in range(int(count))))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    """A broker in a process of its own."""
    running = RunningBroker(tmp_path, policy=POLICY)
    running.initialise()
    yield running
    running.stop()


def token_of(broker: RunningBroker, agent: str, audience: str, scope: str, *more: str) -> str:
    """Return a token by the command line."""
    key = broker.home / "operator.pem" if agent == "operator" else broker.folder / f"{agent}.pem"
    arguments = ("--agent", agent, "--key", str(key), "--audience", audience, "--scope", scope)
    return str(broker.ask("token", *arguments, *more)["access_token"])


def call(broker: RunningBroker, token: str, path: str, body: dict[str, Any] | None = None) -> Any:  # noqa: ANN401 - JSON
    """Call the broker's API."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(broker.issuer + path, data=data, headers=headers)  # noqa: S310 - loopback
    with urllib.request.urlopen(request) as reply:  # noqa: S310
        return json.load(reply)


def opened(broker: RunningBroker, budget: int) -> tuple[str, str, str]:
    """Return a task with a budget, a token in it, and the gateway's own token."""
    for agent in ("alpha", "gateway"):
        broker.agent(agent)
    opening = token_of(broker, "alpha", "broker", "tasks:open")
    task = call(broker, opening, "/v1/tasks", {"purpose": "race", "budget": {"actions": {"tickets:read": budget}}})
    token = token_of(broker, "alpha", TICKETS, "tickets:read", "--task", task["id"])
    return task["id"], token, token_of(broker, "gateway", "broker", "actions:reserve")


def race(broker: RunningBroker, own: str, token: str, processes: int, each: int) -> list[subprocess.Popen[str]]:
    """Start processes that all reserve at once."""
    command = [sys.executable, "-c", WORKER, broker.issuer, own, token, str(each)]
    return [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]


def results(racing: list[subprocess.Popen[str]]) -> list[tuple[int, str | None]]:
    """Wait for them and return every answer that was not read yet."""
    outputs = [process.communicate(timeout=120)[0] for process in racing]
    assert [process.returncode for process in racing] == [0] * len(racing)
    return [(status, action) for output in outputs for status, action in map(json.loads, output.splitlines())]


def test_four_processes_get_exactly_what_there_is(broker: RunningBroker) -> None:
    """200 concurrent reservations from 4 processes against a budget of 50: exactly 50."""
    broker.start()
    task, token, own = opened(broker, 50)
    answers = results(race(broker, own, token, 4, 50))
    assert Counter(status for status, _ in answers) == {201: 50, 409: 150}
    assert len({action for status, action in answers if status == 201}) == 50
    state = call(broker, token_of(broker, "alpha", "broker", "tasks:read"), f"/v1/tasks/{task}")
    assert state["budget"]["actions"]["tickets:read"]["left"] == 0


def test_kills_under_load_lose_and_double_nothing(broker: RunningBroker) -> None:
    """After each ``kill -9``: what was answered is in the ledger, and as much is used, within the budget."""
    broker.start()
    budget, cut_off = 120, 0
    task, token, own = opened(broker, budget)
    reader = token_of(broker, "alpha", "broker", "tasks:read")
    operator = token_of(broker, "operator", "broker", "operator:read")
    promised: set[str | None] = set()
    for enough in (1, 20, 60):
        racing = race(broker, own, token, 2, 150)
        assert racing[0].stdout is not None
        answers = [tuple(json.loads(racing[0].stdout.readline())) for _ in range(enough)]
        broker.kill()
        answers += results(racing)
        promised |= {action for status, action in answers if status == 201}
        cut_off += sum(status == 0 for status, _ in answers)
        broker.start()
        log = call(broker, operator, f"/v1/actions?task={task}&limit=1000")["actions"]
        assert promised <= {action["action_id"] for action in log}
        balance = call(broker, reader, f"/v1/tasks/{task}")["budget"]["actions"]["tickets:read"]
        assert balance["used"] == len(log) <= budget
        assert balance["left"] == budget - len(log)
    assert cut_off > 0, "no kill met a request"
    assert promised, "no request was answered"
    broker.stop()
    broker.command("ledger", "verify", "--config", str(broker.config))
