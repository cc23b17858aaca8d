"""A team of agents that hand work on, people who approve, and a gateway that counts: a policy, and what tests do."""

from __future__ import annotations

from typing import Any

import jwt

from tests.support.broker_app import TICKETS, BrokerApp, Reply

REFUNDS = "https://payments.internal"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
CIBA = "urn:openid:params:grant-type:ciba"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"

TEAM = ("planner", "worker", "helper", "stranger", "carol", "dave", "gateway")
TEAM_POLICY = """
version: 1
audiences:
  https://tickets.internal:
    scopes:
      "tickets:read": {tier: read}
      "tickets:comment": {tier: read}
      "tickets:close": {tier: read}
    served_by: [{agent: gateway}]
    details:
      ticket:
        schema:
          type: object
          required: [type, ids]
          additionalProperties: false
          properties:
            type: {const: ticket}
            ids: {type: array, items: {type: string, pattern: "^T-[0-9]{1,6}$"}}
            most: {type: integer, x-ceiling: true}
  https://payments.internal:
    scopes: {"refunds:create": {tier: sensitive}}
    served_by: [{agent: gateway}]
tiers:
  read: {max_ttl: 15m}
  sensitive: {max_ttl: 5m, approval: {approvers: finance, quorum: 1, expires: 10m}}
roles:
  planners:
    members: [{agent: planner}]
    allow:
      - {audience: https://tickets.internal, scopes: ["tickets:read", "tickets:comment"], details: [ticket, agent_task]}
      - {audience: https://payments.internal, scopes: ["refunds:create"]}
      - {audience: broker, scopes: ["tasks:open", "tasks:read", "tasks:close"]}
    limits: {tokens_per_minute: 100000, task_ttl: 1h, delegation_depth: 3}
    may_delegate_to: [workers]
    break_glass: true
    budget_approval: {approvers: finance, quorum: 1, expires: 10m, adds: 2}
  workers:
    members: [{agent: worker}]
    allow:
      - audience: https://tickets.internal
        scopes: ["tickets:read", "tickets:close"]
        details: [ticket]
    limits: {tokens_per_minute: 100000}
    may_delegate_to: [helpers, {role: finance, own_grants: true}]
  helpers:
    members: [{agent: helper}]
    allow: [{audience: https://tickets.internal, scopes: ["tickets:read"]}]
  finance:
    members: [{agent: carol}, {agent: dave}]
    allow:
      - {audience: broker, scopes: ["approvals:read", "approvals:decide"]}
      - {audience: https://tickets.internal, scopes: ["tickets:close"]}
  gateways:
    members: [{agent: gateway}]
    allow: [{audience: broker, scopes: ["actions:reserve", "revocations:read"]}]
    limits: {tokens_per_minute: 1000}
  operators:
    members: [{agent: operator}]
    allow:
      - audience: broker
        scopes: ["operator:read", "revocations:write", "policy:write", "agents:write", "approvals:read",
                 "approvals:decide"]
    limits: {tokens_per_minute: 1000}
"""


def claims_of(token: str) -> dict[str, Any]:
    """Return the claims of a token, unverified."""
    decoded: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return decoded


async def exchange(app: BrokerApp, actor: str, subject_token: str, **parameters: str) -> Reply:
    """Exchange a token as an agent."""
    form = app.form(actor, subject_token=subject_token, subject_token_type=ACCESS_TOKEN, **parameters)
    return await app.ask({**form, "grant_type": EXCHANGE})


async def delegated(app: BrokerApp, actor: str, subject_token: str, **parameters: str) -> str:
    """Exchange a token as an agent that may, and return the new one."""
    reply = await exchange(app, actor, subject_token, **parameters)
    assert reply.status == 200, reply.body
    return str(reply.json["access_token"])


async def open_task(app: BrokerApp, agent: str = "planner", **wish: object) -> dict[str, Any]:
    """Open a task as an agent."""
    token = await app.token(agent, "broker", "tasks:open")
    reply = await app.call("POST", "/v1/tasks", token=token, json={"purpose": "sort the tickets", **wish})
    assert reply.status == 201, reply.body
    opened: dict[str, Any] = reply.json
    return opened


async def decide(app: BrokerApp, approver: str, approval: str, decision: str = "approve") -> Reply:
    """Decide on a request as a person."""
    token = await app.token(approver, "broker", "approvals:decide")
    body = {"decision": decision, "reason": "looked at it"}
    return await app.call("POST", f"/v1/approvals/{approval}", token=token, json=body)


async def is_active(app: BrokerApp, token: str) -> bool:
    """Whether introspection says that a token is good."""
    operator = await app.operator("operator:read")
    reply = await app.call("POST", "/oauth2/introspect", token=operator, data={"token": token})
    return bool(reply.json["active"])


__all__ = ["REFUNDS", "TEAM", "TEAM_POLICY", "TICKETS"]
