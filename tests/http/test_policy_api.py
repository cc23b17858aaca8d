from __future__ import annotations

from typing import Any

import pytest

from tests.support.broker_app import POLICY, TICKETS, BrokerApp

EXPLAIN = "/v1/policy/explain"


async def test_a_policy_is_reloaded_whole_or_not_at_all(app: BrokerApp) -> None:
    """A good file is in force when it is answered; a bad one changes nothing, and every problem is named."""
    token, file = await app.operator(), app.broker.config.policy
    file.write_text(POLICY.replace("[{agent: alpha}, {agent: beta}]", "[{agent: beta}]"))
    reply = await app.call("POST", "/v1/policy/reload", token=token)
    assert reply.status == 200
    assert reply.json["policy"] == app.services.policy_control.current().digest
    refused = await app.ask(app.form("alpha", audience=TICKETS, scope="tickets:read"))
    assert refused.json["code"] == "no_role"

    file.write_text(
        POLICY.replace("max_ttl: 15m", "max_ttl: forever").replace("members: [{agent: operator}]", "members: []")
    )
    reply = await app.call("POST", "/v1/policy/reload", token=token)
    assert (reply.status, reply.json["code"]) == (422, "policy_invalid")
    assert "max_ttl" in reply.json["detail"]
    assert "members" in reply.json["detail"]
    assert await app.token("beta")


async def test_an_explanation_agrees_with_the_decision(app: BrokerApp) -> None:
    """What is explained as granted is granted, and what is explained as denied is denied with the same code."""
    operator = await app.operator()

    async def explain(name: str, scope: str, **ask: object) -> dict[str, Any]:
        body = {"agent": {"id": name}, "ask": {"audience": TICKETS, "scopes": [scope], **ask}}
        reply = await app.call("POST", EXPLAIN, token=operator, json=body)
        assert reply.status == 200, reply.body
        explanation: dict[str, Any] = reply.json
        return explanation

    granted = await explain("alpha", "tickets:read")
    assert (granted["outcome"], granted["decision"]["role"], granted["decision"]["ttl"]) == ("granted", "support", 900)
    assert (await explain("alpha", "tickets:comment"))["decision"]["code"] == "proof_required"
    assert (await explain("alpha", "tickets:comment", proof=True))["outcome"] == "granted"
    denied = await explain("gateway", "tickets:read")
    assert denied["outcome"] == "denied"
    assert denied["text"]
    assert [role["role"] for role in denied["roles"]] == ["support", "watchers", "operators"]


async def test_a_past_refusal_is_explained(app: BrokerApp) -> None:
    """By its id, from the record, against the policy of now."""
    refused = await app.ask(app.form("alpha", audience=TICKETS, scope="tickets:delete"))
    ref = refused.json["refusal"]
    reply = await app.call("POST", EXPLAIN, token=await app.operator(), json={"refusal": ref})
    assert reply.status == 200
    assert reply.json["decision"]["code"] == "scope_not_allowed"
    assert reply.json["refusal"]["entry"]["ref"] == ref
    token = await app.token("alpha")
    for other in ("ref_nothing", str((await app.entries("token.issued"))[-1]["ref"]), token):
        missing = await app.call("POST", EXPLAIN, token=await app.operator(), json={"refusal": other})
        assert missing.status == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"agent": {"id": "alpha"}},
        {"ask": {"audience": TICKETS}},
        {"refusal": "ref_1", "agent": {"id": "alpha"}},
        {"agent": {"id": "alpha"}, "ask": {"audience": "tickets"}},
        {"agent": {"id": "alpha"}, "ask": {"audience": TICKETS, "scopes": ["a b\n"]}},
        {"agent": {"id": "alpha"}, "ask": {"audience": TICKETS, "task": "/"}},
        {"agent": {"id": "alpha"}, "ask": {"audience": TICKETS, "details": [{"kind": "x"}]}},
        {"agent": {"id": "alpha"}, "ask": {"audience": TICKETS, "delegated_by": "nobody"}},
        {"agent": {"name": "alpha"}, "ask": {"audience": TICKETS}},
        {"agent": {"id": "alpha", "attributes": {"a": 1.5}}, "ask": {"audience": TICKETS}},
        {"agent": {"id": "alpha", "attributes": {"a": {"b": "c"}}}, "ask": {"audience": TICKETS}},
    ],
)
async def test_what_cannot_be_explained(app: BrokerApp, body: dict[str, object]) -> None:
    """Half a question, two at once, and malformed ones are refused."""
    reply = await app.call("POST", EXPLAIN, token=await app.operator(), json=body)
    assert reply.status == 400
