"""Explanations of leases: what is said of a secret agrees with what happens, and past refusals are explained."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from broker.core.jwk import public_jwk
from tests.support.broker_app import BrokerApp, Template, make_template, running_app
from tests.support.leases import LEASING, POLICY, leasing_token, take
from tests.support.scripted_backend import ScriptedBackend, down, raising
from tests.support.team import delegated

EXPLAIN = "/v1/policy/explain"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker with secrets to lease."""
    return make_template(tmp_path_factory.mktemp("explained") / "broker", POLICY, LEASING)


@pytest.fixture
def backend() -> ScriptedBackend:
    """A backend that does as it is told."""
    return ScriptedBackend()


@pytest.fixture
async def app(template: Template, tmp_path: Path, backend: ScriptedBackend) -> AsyncIterator[BrokerApp]:
    """Run it."""
    async with running_app(template, tmp_path / "broker", own_backends={"local": backend}) as running:
        yield running


async def explain(app: BrokerApp, agent: str, secret: str, **ask: object) -> dict[str, Any]:
    """Ask what the policy says to a request for a secret."""
    body = {"agent": {"id": agent}, "ask": {"secret": secret, **ask}}
    reply = await app.call("POST", EXPLAIN, token=await app.operator("operator:read"), json=body)
    assert reply.status == 200, reply.body
    found: dict[str, Any] = reply.json
    return found


async def why(app: BrokerApp, refusal: str) -> dict[str, Any]:
    """Ask what the policy says to a past refusal."""
    reply = await app.call("POST", EXPLAIN, token=await app.operator("operator:read"), json={"refusal": refusal})
    assert reply.status == 200, reply.body
    found: dict[str, Any] = reply.json
    return found


def text_of(explanation: dict[str, Any]) -> str:
    """Return an explanation as one text."""
    return "\n".join(explanation["text"])


async def test_an_explanation_agrees_with_what_happens(app: BrokerApp) -> None:
    """Granted, refused with the same code, or pending: for every secret, with and without what it needs."""
    token = await leasing_token(app)
    key = public_jwk(generate_private_key(SECP256R1()).public_key())
    for secret in ("db", "deed", "letter", "payroll", "other", "no-such"):
        for encrypted in (False, True):
            told = await explain(app, "alpha", secret, encrypted=encrypted)
            wish: dict[str, Any] = {"encrypt_to": key} if encrypted else {}
            reply = await take(app, token, secret, **wish)
            outcome = {201: "granted", 409: "needs_approval"}.get(reply.status, "denied")
            assert told["outcome"] == outcome, (secret, encrypted, reply.body)
            if outcome == "denied":
                assert told["decision"]["code"] == reply.json["code"]


async def test_it_says_role_line_tier_and_what_is_missing(app: BrokerApp) -> None:
    """For people: each condition, and whether the request meets it."""
    granted = await explain(app, "alpha", "db")
    line = "roles.workers.allow[0]"
    assert granted["decision"] == {"secret": "db", "role": "workers", "tier": "read", "ttl": 900, "allowed_by": line}
    assert granted["text"][0] == f"granted: the secret db for 15m in role workers, tier read, by {line}"
    assert "the secret db is taken from local" in granted["notes"]
    assert "a token with leases:take is of role workers, which therefore decides" in granted["notes"]
    assert [role["role"] for role in granted["roles"]] == ["workers", "quiets", "deciders", "operators"]

    proof = text_of(await explain(app, "alpha", "deed"))
    assert "tier proven, for 10m at most, with a token that is bound to a key (it is not)" in proof
    assert (await explain(app, "alpha", "deed", proof=True))["outcome"] == "granted"
    assert "encrypted to a key of the agent's (none is named)" in text_of(await explain(app, "alpha", "letter"))
    approval = await explain(app, "alpha", "payroll")
    assert (approval["decision"]["approvers"], approval["decision"]["quorum"]) == ("deciders", 1)
    assert "after approval by 1 of role deciders" in text_of(approval)
    assert "break_glass" in text_of(approval)
    assert (await explain(app, "alpha", "payroll", break_glass=True))["outcome"] == "granted"
    assert "other: is not allowed here" in text_of(await explain(app, "alpha", "other"))
    unknown = await explain(app, "alpha", "no-such")
    assert "the policy does not know the secret no-such" in unknown["notes"]


async def test_whoever_gets_no_token_gets_no_lease(app: BrokerApp) -> None:
    """The explanation says that it fails before the secret is looked at."""
    told = await explain(app, "carol", "db")
    assert (told["outcome"], told["decision"]["code"]) == ("denied", "scope_not_allowed")
    assert any("there is no token with leases:take" in note for note in told["notes"])


async def test_what_is_handed_on(app: BrokerApp) -> None:
    """A delegate's lease needs every role of the line."""
    both = await explain(app, "quiet", "db", delegated_by="workers")
    assert (both["outcome"], both["decision"]["role"]) == ("granted", "quiets")
    own = await explain(app, "quiet", "other", delegated_by="workers")
    assert (own["outcome"], own["decision"]["code"]) == ("denied", "secret_not_allowed")
    assert any("role workers, which the token comes of, does not" in note for note in own["notes"])
    assert (await explain(app, "quiet", "other"))["outcome"] == "granted"


async def test_a_block_covers_it(app: BrokerApp) -> None:
    """What an operator refuses for the time being is not granted in words either."""
    token = await app.operator("revocations:write")
    body = {"selector": {"secret": "db"}, "reason": "copied", "block": {}}
    headers = {"Idempotency-Key": "k"}
    assert (await app.call("POST", "/v1/revocations", token=token, json=body, headers=headers)).status == 201
    told = await explain(app, "alpha", "db")
    assert told["decision"]["code"] == "blocked"
    assert "a block covers it" in text_of(told)


async def test_past_refusals(app: BrokerApp, backend: ScriptedBackend) -> None:
    """By their references: with the role of the token, the task's ceiling, and the roles that it was handed down by."""
    token = await app.token("alpha", "broker", "leases:take leases:read tasks:open")
    refused = await take(app, token, "deed")
    told = await why(app, refused.json["refusal"])
    assert told["decision"]["code"] == refused.json["code"] == "proof_required"
    assert told["refusal"]["entry"]["kind"] == "lease.refused"
    assert [role["role"] for role in told["roles"]] == ["workers"]
    assert "bound to a key (it is not)" in text_of(told)

    opened = await app.call("POST", "/v1/tasks", token=token, json={"purpose": "sort", "secrets": ["deed"]})
    ceiling = await why(app, (await take(app, token, "db", task=opened.json["id"])).json["refusal"])
    assert ceiling["decision"]["code"] == "task_ceiling"
    assert "the task was opened for other secrets: deed" in ceiling["notes"]

    child = await delegated(app, "quiet", await leasing_token(app))
    handed = await why(app, (await take(app, child, "other")).json["refusal"])
    assert handed["decision"]["code"] == "secret_not_allowed"
    assert any("role workers, which the token comes of, does not" in note for note in handed["notes"])

    backend.before["prepare"] = raising(down())
    assert (await take(app, token, "db")).status == 503
    record = (await app.entries("lease.refused"))[-1]
    now = await why(app, record["ref"])
    assert now["outcome"] == "granted"
    assert any("limits, budgets, and what the backend says" in note for note in now["notes"])


@pytest.mark.parametrize(
    "ask",
    [
        {"secret": "db", "audience": "broker"},
        {"secret": "db", "scopes": ["leases:take"]},
        {"secret": "db", "details": [{"type": "x"}]},
        {"secret": ""},
        {"secret": "../db"},
        {"audience": "broker", "encrypted": True},
        {"secret": "db", "delegated_by": "nobody"},
        {"secret": "db", "task": "/"},
    ],
)
async def test_what_cannot_be_explained(app: BrokerApp, ask: dict[str, object]) -> None:
    """A token and a secret at once, and malformed names."""
    body = {"agent": {"id": "alpha"}, "ask": ask}
    reply = await app.call("POST", EXPLAIN, token=await app.operator("operator:read"), json=body)
    assert reply.status == 400
