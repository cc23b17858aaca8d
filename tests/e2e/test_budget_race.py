"""Many processes reserve from one budget at the same time, and a crash in the middle loses and doubles nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
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
    headers = {"Authorization": "Bearer " + own}
    async with aiohttp.ClientSession() as http:
        async def one():
            body = {"token": token, "action": "tickets:read"}
            try:
                async with http.post(issuer + "/v1/actions", json=body, headers=headers) as reply:
                    answer = await reply.json()
                    return [reply.status, answer.get("action_id")]
            except aiohttp.ClientError:
                return [0, None]
        print(json.dumps(await asyncio.gather(*(one() for _ in range(int(count))))))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def broker(tmp_path: Path) -> RunningBroker:
    """A broker in a process of its own."""
    running = RunningBroker(tmp_path, policy=POLICY)
    running.initialise()
    return running


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
    """Wait for them and return every answer."""
    return [tuple(one) for process in racing for one in json.loads(process.communicate(timeout=60)[0])]


def test_four_processes_get_exactly_what_there_is(broker: RunningBroker) -> None:
    """200 concurrent reservations from 4 processes against a budget of 50: exactly 50."""
    broker.start()
    try:
        task, token, own = opened(broker, 50)
        answers = results(race(broker, own, token, 4, 50))
        assert Counter(status for status, _ in answers) == {201: 50, 409: 150}
        assert len({action for status, action in answers if status == 201}) == 50
        state = call(broker, token_of(broker, "alpha", "broker", "tasks:read"), f"/v1/tasks/{task}")
        assert state["budget"]["actions"]["tickets:read"]["left"] == 0
    finally:
        broker.stop()


def test_a_crash_in_the_middle_loses_and_doubles_nothing(broker: RunningBroker) -> None:
    """``kill -9`` under load: every reservation that was answered is in the ledger, and no more than there was."""
    broker.start()
    try:
        task, token, own = opened(broker, 60)
        racing = race(broker, own, token, 2, 40)
        operator = token_of(broker, "operator", "broker", "operator:read")
        broker.kill()
        answers = results(racing)
        broker.start()
        log = call(broker, operator, f"/v1/actions?task={task}&limit=1000")["actions"]
        stored = {action["action_id"] for action in log}
        assert {action for status, action in answers if status == 201} <= stored
        assert len(stored) <= 60
        state = call(broker, token_of(broker, "alpha", "broker", "tasks:read"), f"/v1/tasks/{task}")
        assert state["budget"]["actions"]["tickets:read"]["used"] == len(stored)
    finally:
        broker.stop()
    broker.command("ledger", "verify", "--config", str(broker.config))
