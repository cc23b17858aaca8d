"""Leases over HTTP: taken within the policy, renewed, given back, and dead with whatever they hang on."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from joserfc import jwe
from joserfc.jwk import ECKey

from broker.core.jwk import public_jwk
from broker.core.lease import LeaseStatus
from tests.support.broker_app import BrokerApp, Template, make_template, running_app
from tests.support.leases import BACKENDS, LEASING, POLICY, leasing_token, reaping, revoke, settled, state_of, take
from tests.support.team import delegated


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker with secrets to lease."""
    made = make_template(tmp_path_factory.mktemp("leases") / "broker", POLICY, LEASING)
    with (made.folder / "broker.toml").open("a") as file:
        file.write(BACKENDS)
    return made


@pytest.fixture
async def app(template: Template, tmp_path: Path) -> AsyncIterator[BrokerApp]:
    """Run it, with its reaper."""
    async with running_app(template, tmp_path / "broker") as running, reaping(running):
        yield running


async def test_a_lease_is_taken_renewed_and_given_back(app: BrokerApp) -> None:
    """From the secret in the answer to the backend's word that it is dead."""
    token = await leasing_token(app)
    reply = await take(app, token, ttl="1m")
    assert reply.status == 201, reply.body
    lease = reply.json
    assert len(lease["data"]["value"]) >= 32
    assert (lease["renewable"], lease["revocable"]) == (True, True)
    assert 58 <= lease["lease_duration"] <= 60
    assert reply.headers["Cache-Control"] == "no-store"

    path = f"/v1/leases/{lease['lease_id']}"
    renewed = await app.call("POST", f"{path}/renew", token=token, json={"ttl": "5m"})
    assert renewed.status == 200, renewed.body
    assert 298 <= renewed.json["lease_duration"] <= 300

    shown = (await app.call("GET", path, token=token)).json
    assert (shown["state"], shown["secret"], shown["agent"]) == ("live", "db", "alpha")
    ended = await app.call("DELETE", f"{path}?wait=5", token=token)
    assert (ended.status, ended.json["state"], ended.json["because"]) == (200, "revoked", "returned")
    again = await app.call("DELETE", path, token=token)
    assert (again.status, again.json["state"]) == (200, "revoked")
    late = await app.call("POST", f"{path}/renew", token=token, json={})
    assert (late.status, late.json["code"]) == (409, "lease_ended")


async def test_the_same_request_again_has_the_lease_but_never_the_secret(app: BrokerApp) -> None:
    """A repeated Idempotency-Key is answered with a reference."""
    token, key = await leasing_token(app), str(uuid.uuid4())
    first, second = await asyncio.gather(take(app, token, key=key), take(app, token, key=key))
    statuses = sorted([first.status, second.status])
    assert statuses == [200, 201]
    assert first.json["lease_id"] == second.json["lease_id"]
    told = next(reply for reply in (first, second) if reply.status == 200)
    assert told.json["data"] is None
    third = await take(app, token, key=key)
    assert (third.status, third.json["data"]) == (200, None)
    other = await take(app, token, "absent", key=key)
    assert (other.status, other.json["code"]) == (422, "idempotency_key_reused")
    keyless = await app.call("POST", "/v1/leases", token=token, json={"secret": "db"})
    assert (keyless.status, keyless.json["code"]) == (400, "idempotency_key_missing")


@pytest.mark.parametrize(
    ("wish", "status", "code"),
    [
        ({"secret": "other"}, 403, "secret_not_allowed"),
        ({"secret": "no-such"}, 403, "secret_not_allowed"),
        ({"secret": "deed"}, 401, "proof_required"),
        ({"secret": "letter"}, 400, "encryption_required"),
        ({"secret": "letter", "encrypt_to": {"kty": "oct", "k": "AAAA"}}, 400, "malformed_request"),
        ({"secret": "absent"}, 502, "backend_refused"),
        ({"secret": "elsewhere"}, 502, "backend_refused"),
        ({"secret": "db", "task": "task_unknown"}, 409, "task_not_open"),
        ({"secret": "db", "ttl": 0}, 400, "malformed_request"),
        ({"secret": "db", "ttl": -5}, 400, "malformed_request"),
        ({"secret": "db", "ttl": "25h"}, 400, "malformed_request"),
        ({"secret": "db", "ttl": 1.5}, 400, "malformed_request"),
        ({"secret": "../db"}, 400, "malformed_request"),
        ({"secret": "DB"}, 400, "malformed_request"),
        ({"secret": "db", "data": "x"}, 400, "unknown_field"),
        ({"secret": "payroll"}, 409, "authorization_pending"),
    ],
)
async def test_what_is_not_allowed_is_refused_and_leaves_nothing(
    app: BrokerApp, wish: dict[str, object], status: int, code: str
) -> None:
    """Each refusal has its code, and no lease comes of it."""
    token = await leasing_token(app)
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    reply = await app.call("POST", "/v1/leases", token=token, json=wish, headers=headers)
    assert (reply.status, reply.json["code"]) == (status, code), reply.body
    assert (await app.call("GET", "/v1/leases", token=token)).json["leases"] == []


async def test_no_more_leases_than_the_limit_however_many_ask_at_once(app: BrokerApp) -> None:
    """The limit is a guard in the transaction."""
    token = await leasing_token(app)
    replies = await asyncio.gather(*(take(app, token) for _ in range(20)))
    taken = [reply for reply in replies if reply.status == 201]
    assert len(taken) == 5
    assert {reply.json["code"] for reply in replies if reply.status != 201} == {"lease_limit"}
    back = await app.call("DELETE", f"/v1/leases/{taken[0].json['lease_id']}?wait=5", token=token)
    assert back.json["state"] == "revoked"
    assert (await take(app, token)).status == 201


async def test_a_lease_dies_with_its_agent_role_secret_backend_or_token(app: BrokerApp) -> None:
    """One rule, whatever it names, and the outcome is told."""
    for selector in ("agent", "role", "secret", "backend", "token", "lease", "tier"):
        token = await leasing_token(app, "beta")
        taken = (await take(app, token)).json
        state = await state_of(app, taken["lease_id"])
        value = {"agent": "beta", "role": "workers", "secret": "db", "backend": "local", "tier": "read"}.get(selector)
        value = value or (state.lease.token if selector == "token" else state.lease.id)
        rule = await revoke(app, **{selector: value})
        ended = await settled(app, taken["lease_id"])
        assert (ended.status, ended.because, ended.rule) == (LeaseStatus.REVOKED, "revoked", rule["rule"]), selector
        shown = await app.call("GET", f"/v1/revocations/{rule['rule']}", token=await app.operator("operator:read"))
        assert shown.json["hits"]["leases"] == {"revocable": 1, "expires_only": 0, "latest_expiry": None}, selector
        assert shown.json["leases"] == {"revoked": 1, "retrying": 0, "expires_only": 0, "stuck": 0, "abandoned": 0}


async def test_a_lease_ends_with_its_task(app: BrokerApp) -> None:
    """Closing revokes; the ceiling and the budget of the task bound what is taken."""
    token = await app.token("alpha", "broker", "leases:take leases:read tasks:open tasks:close")
    opened = await app.call(
        "POST", "/v1/tasks", token=token, json={"purpose": "sort", "secrets": ["db"], "budget": {"leases": 1}}
    )
    task = opened.json["id"]
    lease = (await take(app, token, task=task)).json
    assert lease["task"] == task
    more = await take(app, token, task=task)
    assert (more.status, more.json["code"]) == (409, "authorization_pending"), "people can lift this budget"
    beyond = await take(app, token, "absent", task=task)
    assert (beyond.status, beyond.json["code"]) == (403, "task_ceiling")
    await app.call("DELETE", f"/v1/tasks/{task}", token=token)
    assert (await settled(app, lease["lease_id"])).status is LeaseStatus.REVOKED
    closed = await take(app, token, task=task)
    assert (closed.status, closed.json["code"]) == (409, "task_not_open")


async def test_a_budget_that_people_lifted_pays_for_one_more(app: BrokerApp) -> None:
    """Used up is a pause, not a dead end."""
    token = await app.token("alpha", "broker", "leases:take leases:read tasks:open")
    opened = await app.call("POST", "/v1/tasks", token=token, json={"purpose": "sort", "budget": {"leases": 1}})
    task = opened.json["id"]
    assert (await take(app, token, task=task)).status == 201
    request = (await take(app, token, task=task)).json["auth_req_id"]
    decider = await app.token("carol", "broker", "approvals:decide approvals:read")
    voted = await app.call(
        "POST", f"/v1/approvals/{request}", token=decider, json={"decision": "approve", "reason": "ok"}
    )
    assert voted.status == 200, voted.body
    assert (await take(app, token, task=task, auth_req_id=request)).status == 201
    assert (await take(app, token, task=task, auth_req_id=request)).status == 409


async def test_a_person_agrees_to_exactly_one_lease(app: BrokerApp) -> None:
    """Whatever differs from what was approved is refused; once is once."""
    token = await leasing_token(app)
    asked = await take(app, token, "payroll", ttl=60)
    request = asked.json["auth_req_id"]
    decider = await app.token("carol", "broker", "approvals:decide approvals:read")
    shown = (await app.call("GET", f"/v1/approvals/{request}", token=decider)).json
    assert shown["asked"]["secret"] == "payroll"
    await app.call("POST", f"/v1/approvals/{request}", token=decider, json={"decision": "approve", "reason": "ok"})
    for other in ({"ttl": 61}, {"ttl": 60, "encrypt_to": public_jwk(generate_private_key(SECP256R1()).public_key())}):
        tampered = await take(app, token, "payroll", auth_req_id=request, **other)
        assert (tampered.status, tampered.json["code"]) == (403, "approval_invalid")
    stolen = await take(app, await leasing_token(app, "beta"), "payroll", ttl=60, auth_req_id=request)
    assert (stolen.status, stolen.json["code"]) == (403, "approval_invalid")
    assert (await take(app, token, "payroll", ttl=60, auth_req_id=request)).status == 201
    twice = await take(app, token, "payroll", ttl=60, auth_req_id=request)
    assert (twice.status, twice.json["code"]) == (403, "approval_invalid")


async def test_break_glass_takes_a_lease_loudly(app: BrokerApp) -> None:
    """Going ahead without approval is announced and recorded."""
    reply = await take(app, await leasing_token(app), "payroll", break_glass="the payroll run fails")
    assert reply.status == 201
    assert app.events.of("break_glass.used")
    intended = (await app.entries("lease.intended"))[-1]
    assert intended["break_glass"] == "the payroll run fails"


async def test_an_encrypted_secret_is_read_with_the_agents_key_only(app: BrokerApp) -> None:
    """The answer has a JWE, and nothing in the clear."""
    key = generate_private_key(SECP256R1())
    reply = await take(app, await leasing_token(app), "letter", encrypt_to=public_jwk(key.public_key()))
    assert reply.status == 201, reply.body
    assert "data" not in reply.json
    opened = jwe.decrypt_compact(reply.json["jwe"], ECKey.import_key(key), algorithms=["ECDH-ES+A256KW", "A256GCM"])
    assert opened.plaintext is not None
    assert len(json.loads(opened.plaintext)["value"]) >= 32


async def test_others_see_and_end_nothing(app: BrokerApp) -> None:
    """For everybody else it does not exist; operators see all."""
    mine, others = await leasing_token(app), await leasing_token(app, "beta")
    lease = (await take(app, mine)).json["lease_id"]
    for method, path in (("GET", ""), ("POST", "/renew"), ("DELETE", "")):
        body: dict[str, str] | None = {} if method == "POST" else None
        reply = await app.call(method, f"/v1/leases/{lease}{path}", token=others, json=body)
        assert (reply.status, reply.json["code"]) == (404, "not_found")
    assert (await app.call("GET", "/v1/leases", token=others)).json["leases"] == []
    listed = await app.call("GET", "/v1/leases?agent=alpha", token=others)
    assert (listed.status, listed.json["code"]) == (403, "insufficient_scope")
    seen = await app.call("GET", "/v1/leases?state=live", token=await app.operator("operator:read", "leases:read"))
    assert [each["lease_id"] for each in seen.json["leases"]] == [lease]


async def test_a_block_stops_taking_and_renewing(app: BrokerApp) -> None:
    """A block that covers the lease refuses both; another one neither."""
    token = await leasing_token(app)
    lease = (await take(app, token, ttl=60)).json["lease_id"]
    reply = await app.call(
        "POST",
        "/v1/revocations",
        token=await app.operator("revocations:write"),
        json={"selector": {"secret": "db", "agent": "nobody-yet"}, "reason": "x", "block": {"for": "1h"}},
        headers={"Idempotency-Key": str(uuid.uuid4())},
    )
    assert reply.status == 201
    assert (await app.call("POST", f"/v1/leases/{lease}/renew", token=token, json={})).status == 200
    await app.call(
        "POST",
        "/v1/revocations",
        token=await app.operator("revocations:write"),
        json={"selector": {"secret": "db"}, "reason": "x", "block": {"for": "1h"}},
        headers={"Idempotency-Key": str(uuid.uuid4())},
    )
    renewed = await app.call("POST", f"/v1/leases/{lease}/renew", token=token, json={})
    assert renewed.json["code"] in {"blocked", "lease_ended"}
    taken = await take(app, token)
    assert (taken.status, taken.json["code"]) == (403, "blocked")
    assert (await settled(app, lease)).status is LeaseStatus.REVOKED


async def test_a_lease_expires_and_is_revoked_then(app: BrokerApp) -> None:
    """Its end is not left to the backend."""
    token = await leasing_token(app)
    lease = (await take(app, token, ttl=1)).json["lease_id"]
    ended = await settled(app, lease)
    assert (ended.status, ended.because) == (LeaseStatus.REVOKED, "expired")


async def test_a_delegate_gets_what_every_role_of_its_line_allows(app: BrokerApp) -> None:
    """Law 4 for secrets: a child never exceeds its parent, and dies with it."""
    parent = await app.token("alpha", "broker", "leases:take leases:read")
    child = await delegated(app, "quiet", parent, audience="broker", scope="leases:take leases:read")
    lease = await take(app, child)
    assert lease.status == 201, lease.body
    refused = await take(app, child, "other")
    assert (refused.status, refused.json["code"]) == (403, "secret_not_allowed")
    state = await state_of(app, lease.json["lease_id"])
    assert (state.lease.agent, state.lease.on_behalf_of) == ("quiet", "alpha")
    await revoke(app, agent="alpha")
    assert (await settled(app, lease.json["lease_id"])).status is LeaseStatus.REVOKED


async def test_every_step_of_a_lease_is_recorded_without_the_secret(app: BrokerApp) -> None:
    """Four entries, and a fingerprint that needs a key."""
    token = await leasing_token(app)
    taken = (await take(app, token)).json
    await app.call("DELETE", f"/v1/leases/{taken['lease_id']}?wait=5", token=token)
    kinds = [entry["kind"] for entry in await app.entries() if entry.get("ref") == taken["lease_id"]]
    assert kinds == ["lease.intended", "lease.sealed", "lease.ended", "lease.settled"]
    everything = json.dumps(await app.entries())
    assert taken["data"]["value"] not in everything
    sealed = (await app.entries("lease.sealed"))[0]
    assert len(sealed["fingerprint"]) == 64


async def test_a_lease_is_not_renewed_all_the_time(app: BrokerApp) -> None:
    """Each renewal asks the backend and is recorded, so their number has a bound."""
    token = await leasing_token(app)
    lease = (await take(app, token)).json["lease_id"]
    replies = [await app.call("POST", f"/v1/leases/{lease}/renew", token=token, json={}) for _ in range(31)]
    assert {reply.status for reply in replies[:30]} == {200}
    assert (replies[30].status, replies[30].json["code"]) == (429, "rate_limited")
    assert len(await app.entries("lease.renewed")) == 30
