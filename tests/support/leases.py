"""A broker that leases secrets from a file beside it: the policy, the settings, and what tests do."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from broker.core.lease import LeaseState
from tests.support.broker_app import BrokerApp, Reply

LEASING = ("alpha", "beta", "carol", "quiet")
SETTINGS = ""
BACKENDS = '\n[backends.local]\npath = "secrets.sealed"\n'
POLICY = """
version: 1
tiers:
  read: {max_ttl: 15m}
  proven: {max_ttl: 10m, proof_of_possession: required}
  sealed: {max_ttl: 10m, encrypted_delivery: required}
  sensitive: {max_ttl: 5m, approval: {approvers: deciders, quorum: 1, expires: 10m}}
secrets:
  db: {backend: local, tier: read, generate: 32}
  deed: {backend: local, tier: proven, generate: 32}
  letter: {backend: local, tier: sealed, generate: 32}
  payroll: {backend: local, tier: sensitive, generate: 32}
  other: {backend: local, tier: read, generate: 16}
  absent: {backend: local, tier: read, stored: nothing-of-this-name}
  elsewhere: {backend: local/elsewhere, tier: read, generate: 16}
roles:
  workers:
    members: [{agent: alpha}, {agent: beta}]
    allow:
      - {secret: db}
      - {secret: deed}
      - {secret: letter}
      - {secret: payroll}
      - {secret: absent}
      - {secret: elsewhere}
      - {audience: broker, scopes: ["leases:take", "leases:read", "tasks:open", "tasks:close", "tasks:read"]}
    limits: {tokens_per_minute: 1000, live_leases: 5, task_ttl: 1h}
    may_delegate_to: [quiets]
    break_glass: true
    budget_approval: {approvers: deciders, quorum: 1, expires: 10m, adds: 1}
  quiets:
    members: [{agent: quiet}]
    allow:
      - {secret: db}
      - {secret: other}
      - {audience: broker, scopes: ["leases:take", "leases:read"]}
  deciders:
    members: [{agent: carol}]
    allow: [{audience: broker, scopes: ["approvals:read", "approvals:decide"]}]
  operators:
    members: [{agent: operator}]
    allow:
      - {audience: broker, scopes: ["operator:read", "revocations:write", "leases:read", "policy:write", "ledger:read"]}
    limits: {tokens_per_minute: 1000}
"""


async def leasing_token(app: BrokerApp, agent: str = "alpha", **parameters: str) -> str:
    """Return an agent's token with which it takes leases."""
    return await app.token(agent, "broker", "leases:take leases:read", **parameters)


async def take(app: BrokerApp, token: str, secret: str = "db", key: str | None = None, **wish: Any) -> Reply:  # noqa: ANN401 - JSON
    """Ask for a lease."""
    headers = {"Idempotency-Key": key or str(uuid.uuid4())}
    return await app.call("POST", "/v1/leases", token=token, json={"secret": secret, **wish}, headers=headers)


async def revoke(app: BrokerApp, **selector: str) -> dict[str, Any]:
    """Make a rule."""
    reply = await app.call(
        "POST",
        "/v1/revocations",
        token=await app.operator("revocations:write"),
        json={"selector": selector, "reason": "test"},
        headers={"Idempotency-Key": str(uuid.uuid4())},
    )
    assert reply.status == 201, reply.body
    found: dict[str, Any] = reply.json
    return found


@asynccontextmanager
async def reaping(app: BrokerApp) -> AsyncIterator[None]:
    """Let the reaper work, faster than it would."""
    step = next(job.run for job in app.broker.jobs if job.name == "leases")

    async def run() -> None:
        while True:
            await step()
            await asyncio.sleep(0.01)

    task = asyncio.create_task(run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def state_of(app: BrokerApp, lease_id: str) -> LeaseState:
    """Return a lease as the ledger has it."""
    state = await app.services.holdings.stored(lease_id)
    assert state is not None
    return state


async def settled(app: BrokerApp, lease_id: str, within: float = 5.0) -> LeaseState:
    """Return a lease once nothing is left to do for it."""
    state = await state_of(app, lease_id)
    for _ in range(int(within / 0.02)):
        if state.settled_at is not None:
            return state
        await asyncio.sleep(0.02)
        state = await state_of(app, lease_id)
    raise AssertionError(f"{lease_id} is still {state.status.value}")


async def eventually(condition: Callable[[], bool], within: float = 10.0) -> None:
    """Wait until a condition holds."""
    for _ in range(int(within / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to that")
