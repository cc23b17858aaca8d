"""Identity tokens over HTTP: who gets which, what they say, and that nobody who takes access tokens takes them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from broker.ledger.verify import verify_file
from tests.support.broker_app import (
    ASSERTION_TYPE,
    HERE,
    TICKETS,
    BrokerApp,
    Reply,
    Template,
    make_template,
    running_app,
)
from tests.support.team import ACCESS_TOKEN, EXCHANGE, claims_of, decide, delegated, is_active, open_task

JWT = "urn:ietf:params:oauth:token-type:jwt"
AWS = "sts.amazonaws.com"
KUBERNETES = "https://kubernetes.default.svc"
AGENTS = ("planner", "worker", "helper", "broker", "carol")
POLICY = """
version: 1
audiences:
  https://tickets.internal: {scopes: {"tickets:read": {tier: read}}}
tiers: {read: {max_ttl: 15m}}
roles:
  planners:
    members: [{agent: planner}, {agent: broker}]
    allow:
      - {audience: https://tickets.internal, scopes: ["tickets:read"]}
      - {audience: broker, scopes: ["identity:issue", "tasks:open", "tasks:close"], details: [agent_task]}
      - {identity_token: vault, claims: {env: prod}, groups: [planners, all]}
      - {identity_token: sts.amazonaws.com, max_ttl: 1m}
      - {identity_token: https://kubernetes.default.svc, max_ttl: 1h}
    limits: {tokens_per_minute: 100000, delegation_depth: 2, task_ttl: 1h}
    may_delegate_to: [workers, helpers, {role: finance, own_grants: true}]
  workers:
    members: [{agent: worker}]
    allow:
      - {identity_token: vault, claims: {env: test}}
      - {identity_token: only-workers}
    limits: {tokens_per_minute: 100000}
  helpers:
    members: [{agent: helper}]
    allow: [{audience: broker, scopes: ["identity:issue"]}]
  finance:
    members: [{agent: carol}]
    allow: [{identity_token: bank}]
  operators:
    members: [{agent: operator}]
    allow:
      - {audience: broker, scopes: ["operator:read", "revocations:write", "policy:write", "ledger:read"]}
    limits: {tokens_per_minute: 1000}
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker with a team of agents."""
    return make_template(tmp_path_factory.mktemp("identities") / "broker", POLICY, AGENTS)


@pytest.fixture
async def app(template: Template, tmp_path: Path) -> AsyncIterator[BrokerApp]:
    """Run it."""
    async with running_app(template, tmp_path / "broker") as running:
        yield running


async def subject(app: BrokerApp, agent: str = "planner", **parameters: str) -> str:
    """Return a token that can be exchanged."""
    return await app.token(agent, "broker", "identity:issue", **parameters)


async def ask(app: BrokerApp, agent: str, token: str, audience: str | None = "vault", **parameters: str) -> Reply:
    """Ask for an identity token."""
    form = {
        **app.form(agent),
        "grant_type": EXCHANGE,
        "subject_token": token,
        "subject_token_type": ACCESS_TOKEN,
        "requested_token_type": JWT,
        **({} if audience is None else {"audience": audience}),
        **parameters,
    }
    return await app.ask(form)


async def take(app: BrokerApp, agent: str, token: str, audience: str = "vault", **parameters: str) -> str:
    """Return an identity token."""
    reply = await ask(app, agent, token, audience, **parameters)
    assert reply.status == 200, reply.body
    return str(reply.json["access_token"])


async def published(app: BrokerApp, token: str, audience: str) -> dict[str, Any]:
    """Verify a token as its readers do: with the keys that the broker publishes."""
    metadata = (await app.call("GET", "/.well-known/openid-configuration")).json
    keys = (await app.call("GET", metadata["jwks_uri"].removeprefix(app.issuer))).json["keys"]
    header = jwt.get_unverified_header(token)
    (key,) = [jwt.PyJWK(each) for each in keys if each["kid"] == header["kid"]]
    read: dict[str, Any] = jwt.decode(
        token, key, algorithms=["ES256"], audience=audience, issuer=metadata["issuer"], options={"require": ["exp"]}
    )
    return read


# --- what is given ----------------------------------------------------------------------------------------------------


async def test_an_agents_own(app: BrokerApp) -> None:
    """It says who the agent is, flat, with what the policy adds; it is recorded, and is no token to be sent with."""
    parent = await subject(app)
    reply = await ask(app, "planner", parent)
    token = reply.json.pop("access_token")
    body = reply.json
    assert (body["issued_token_type"], body["token_type"], body["expires_in"]) == (JWT, "N_A", 300)
    assert "scope" not in body
    assert reply.headers["Cache-Control"] == "no-store"
    assert jwt.get_unverified_header(body["access_token"])["typ"] == "JWT"
    claims = await published(app, token, "vault")
    task, iat = claims_of(parent)["broker"]["task"], claims.pop("iat")
    entry = (await app.entries("identity_token.issued"))[-1]
    assert claims == {
        "iss": app.issuer,
        "sub": "planner",
        "aud": "vault",
        "nbf": iat,
        "exp": iat + 300,
        "jti": entry["ref"],
        "agent": "planner",
        "task": task,
        "role": "planners",
        "env": "prod",
        "groups": ["planners", "all"],
    }
    assert (entry["expires_at"], entry["agent"], entry["audience"]) == (iat + 300, "planner", "vault")


async def test_a_resource_is_an_audience_as_it_stands(app: BrokerApp) -> None:
    """``resource`` and ``audience`` mean the same, naming it in both is one, and it is compared as it stands."""
    parent = await subject(app)
    reply = await ask(app, "planner", parent, None, resource=KUBERNETES)
    assert (await published(app, reply.json["access_token"], KUBERNETES))["sub"] == "planner"
    assert (await ask(app, "planner", parent, KUBERNETES, resource=KUBERNETES)).status == 200
    assert (await ask(app, "planner", parent, KUBERNETES + "/")).json["code"] == "audience_not_allowed"
    assert (await ask(app, "planner", parent, KUBERNETES.upper())).json["code"] == "audience_not_allowed"


async def test_a_delegates_names_everybody(app: BrokerApp) -> None:
    """``sub`` stays on whose behalf it is, ``agent`` is who acts, and the claims are those of that one's role."""
    token = await take(app, "worker", await subject(app))
    claims = await published(app, token, "vault")
    assert (claims["sub"], claims["agent"], claims["role"]) == ("planner", "worker", "workers")
    assert claims["act"] == {"sub": "worker"}
    assert (claims["env"], "groups" in claims) == ("test", False)
    entry = (await app.entries("identity_token.issued"))[-1]
    assert (entry["on_behalf_of"], entry["actors"], entry["agent"]) == ("planner", ["worker"], "worker")


async def test_impersonation_names_no_actors_in_act(app: BrokerApp) -> None:
    """Where the policy says so there is no ``act``; the record has the line all the same."""
    await reload(app, "[workers, helpers,", "[{role: workers, impersonation: true}, helpers,")
    claims = claims_of(await take(app, "worker", await subject(app)))
    assert ("act" in claims, claims["sub"]) == (False, "planner")
    entry = (await app.entries("identity_token.issued"))[-1]
    assert (entry["actors"], entry["impersonates"]) == (["worker"], True)


async def test_tags_for_aws(app: BrokerApp) -> None:
    """AWS is told of agent and task in its own words."""
    parent = await subject(app)
    claims = await published(app, await take(app, "planner", parent, AWS), AWS)
    task = claims_of(parent)["broker"]["task"]
    assert claims["https://aws.amazon.com/tags"] == {
        "principal_tags": {"agent": ["planner"], "task": [task]},
        "transitive_tag_keys": ["agent", "task"],
    }
    assert claims["https://aws.amazon.com/source_identity"] == "planner"
    assert claims["exp"] - claims["iat"] == 60


async def test_an_actor_token_says_who_acts(app: BrokerApp) -> None:
    """An agent's own token for the broker's API stands for its assertion; one for anybody else's resource does not."""
    parent = await subject(app)
    form = {"grant_type": EXCHANGE, "subject_token": parent, "subject_token_type": ACCESS_TOKEN, "audience": "vault"}
    form |= {"requested_token_type": JWT, "actor_token_type": ACCESS_TOKEN}
    assert (await app.ask({**form, "actor_token": parent})).status == 200
    elsewhere = await app.ask({**form, "actor_token": await app.token("planner")})
    assert elsewhere.json["code"] == "actor_token_invalid"


# --- how long ---------------------------------------------------------------------------------------------------------


async def test_it_outlives_neither_what_it_comes_of_nor_the_task(app: BrokerApp) -> None:
    """The line may allow an hour: the token that was exchanged, or the task, ends before."""
    parent = await subject(app)
    assert claims_of(await take(app, "planner", parent, KUBERNETES))["exp"] <= claims_of(parent)["exp"]
    task = await open_task(app, ttl="2m")
    within = await subject(app, task=task["id"])
    claims = claims_of(await take(app, "planner", within))
    assert claims["task"] == task["id"]
    assert claims["exp"] - claims["iat"] <= 120


async def test_a_task_that_is_closed_gives_no_more(app: BrokerApp) -> None:
    """With the task ends the token that could be exchanged."""
    task = await open_task(app)
    within = await subject(app, task=task["id"])
    await take(app, "planner", within)
    closing = await app.token("planner", "broker", "tasks:close")
    assert (await app.call("DELETE", f"/v1/tasks/{task['id']}", token=closing)).status == 200
    assert (await ask(app, "planner", within)).json["code"] == "subject_token_invalid"


async def test_a_task_that_is_closed_while_one_asks(app: BrokerApp) -> None:
    """A sub-task that was closed gives nothing, though the token to be exchanged is one of its parent."""
    task = await open_task(app)
    sub = await open_task(app, parent=task["id"])
    parent = await subject(app, task=task["id"])
    assert claims_of(await take(app, "planner", parent, task=sub["id"]))["task"] == sub["id"]
    closing = await app.token("planner", "broker", "tasks:close")
    assert (await app.call("DELETE", f"/v1/tasks/{sub['id']}", token=closing)).status == 200
    assert (await ask(app, "planner", parent, task=sub["id"])).json["code"] == "task_not_open"
    other = await open_task(app)
    assert (await ask(app, "planner", parent, task=other["id"])).json["code"] == "task_not_open"


async def test_the_budget_of_a_task_counts_them(app: BrokerApp) -> None:
    """An identity token is one of the tokens of its task."""
    task = await open_task(app, budget={"tokens": 3})
    parent = await subject(app, task=task["id"])
    await take(app, "planner", parent)
    await take(app, "planner", parent)
    assert (await ask(app, "planner", parent)).json["code"] == "budget_used_up"


async def test_people_lift_the_budget_of_a_task(app: BrokerApp, tmp_path: Path) -> None:
    """Where the policy says who may, it is a pause, as for other tokens; once, and only what they agreed to."""
    policy = app.broker.config.policy
    lifting = "    budget_approval: {approvers: finance, quorum: 1, expires: 10m, adds: 1}\n"
    text = policy.read_text().replace("    may_delegate_to: [workers", lifting + "    may_delegate_to: [workers")
    deciding = 'allow: [{identity_token: bank}, {audience: broker, scopes: ["approvals:decide"]}]'
    policy.write_text(text.replace("allow: [{identity_token: bank}]", deciding))
    await app.broker.policy_control.reload(by="operator", caller=HERE)
    task = await open_task(app, budget={"tokens": 1})
    parent = await subject(app, task=task["id"])
    paused = await ask(app, "planner", parent)
    assert (paused.status, paused.json["error"]) == (400, "authorization_pending"), paused.body
    request = paused.json["auth_req_id"]
    assert (await ask(app, "planner", parent, auth_req_id=request)).json["error"] == "slow_down"
    assert (await decide(app, "carol", request)).json["state"] == "approved"
    await take(app, "planner", parent, auth_req_id=request)
    (issued,) = await app.entries("identity_token.issued")
    assert issued["budget_approval"] == request
    again = await ask(app, "planner", parent, auth_req_id=request)
    assert again.json["error"] == "authorization_pending"
    assert again.json["auth_req_id"] != request
    assert verify_file(tmp_path / "broker" / "ledger.db").problems == ()


async def test_the_ceiling_of_a_task_covers_them(app: BrokerApp) -> None:
    """A task that was opened for something else proves nobody's identity, nor does one below it."""
    task = await open_task(app, scopes={"broker": ["identity:issue", "tasks:open"]})
    sub = await open_task(app, parent=task["id"], scopes={"broker": ["tasks:open"]})
    parent = await subject(app, task=task["id"])
    await take(app, "planner", parent)
    assert (await ask(app, "planner", parent, task=sub["id"])).json["code"] == "task_ceiling"


# --- who does not get one ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "audience", "code"),
    [
        ("planner", "nobody", "audience_not_allowed"),
        ("planner", "Vault", "audience_not_allowed"),
        ("planner", "only-workers", "audience_not_allowed"),
        ("planner", TICKETS, "audience_not_allowed"),
        ("planner", "broker", "audience_not_allowed"),
        ("worker", "only-workers", "audience_not_allowed"),
        ("worker", AWS, "audience_not_allowed"),
        ("helper", "vault", "audience_not_allowed"),
        ("operator", "vault", "delegation_not_allowed"),
    ],
)
async def test_what_no_line_allows(app: BrokerApp, agent: str, audience: str, code: str) -> None:
    """Default deny, for the role that acts and for each that the token was handed down from; recorded each time."""
    reply = await ask(app, agent, await subject(app), audience)
    assert (reply.status, reply.json["code"]) == (400, code), reply.body
    entry = (await app.entries("identity_token.refused"))[-1]
    assert (entry["code"], entry["audience"], entry["agent"]) == (code, audience, agent)
    assert not await app.entries("identity_token.issued")


async def test_own_grants_are_the_delegates_own(app: BrokerApp) -> None:
    """A delegate that may use what it has of its own needs no line in the role above."""
    claims = claims_of(await take(app, "carol", await subject(app), "bank"))
    assert (claims["sub"], claims["agent"], claims["role"]) == ("planner", "carol", "finance")


async def test_only_a_token_with_the_scope_for_it(app: BrokerApp) -> None:
    """Whoever was handed a token for something else has not been handed an identity."""
    for token in (await app.token("planner"), await app.token("planner", "broker", "tasks:open")):
        for agent in ("planner", "worker"):
            assert (await ask(app, agent, token)).json["code"] == "subject_token_invalid"


async def test_details_are_not_shed(app: BrokerApp) -> None:
    """An identity token cannot say what authorization details say, so it does not come of a token that has some."""
    details = json.dumps([{"type": "agent_task", "actions": ["read"]}])
    parent = await subject(app, authorization_details=details)
    assert (await ask(app, "planner", parent)).json["code"] == "details_not_allowed"


async def test_may_act_names_the_only_actor(app: BrokerApp) -> None:
    """A token that names its actor is for nobody else."""
    assert (await ask(app, "worker", await subject(app, may_act="helper"))).json["code"] == "delegation_not_allowed"


async def test_nobody_has_the_brokers_name(app: BrokerApp) -> None:
    """An agent that is called as the broker calls itself would pass for the broker at Vault; so would its delegate."""
    parent = await subject(app, "broker")
    for agent in ("broker", "worker"):
        assert (await ask(app, agent, parent)).json["code"] == "audience_not_allowed"


async def test_the_line_is_not_longer_than_allowed(app: BrokerApp) -> None:
    """The depth of delegation counts as for access tokens."""
    await reload(app, "delegation_depth: 2", "delegation_depth: 1")
    await take(app, "worker", await subject(app))
    through = await delegated(app, "helper", await subject(app))
    await reload(
        app, "    members: [{agent: helper}]", "    may_delegate_to: [workers]\n    members: [{agent: helper}]"
    )
    assert (await ask(app, "worker", through)).json["code"] == "delegation_too_deep"


async def test_a_bound_token_needs_a_key_of_ones_own(app: BrokerApp) -> None:
    """What a thief of a bound token could not send, it cannot exchange either."""
    endpoint = f"{app.issuer}/oauth2/token"
    form = app.form("planner", audience="broker", scope="identity:issue")
    parent = (await app.ask(form, {"DPoP": app.proof(app.keys["planner"], "POST", endpoint)})).json["access_token"]
    assert (await ask(app, "planner", parent)).json["code"] == "proof_required"
    asked = {
        **app.form("planner"),
        "grant_type": EXCHANGE,
        "subject_token": parent,
        "subject_token_type": ACCESS_TOKEN,
        "requested_token_type": JWT,
        "audience": "vault",
    }
    reply = await app.ask(asked, {"DPoP": app.proof(app.keys["planner"], "POST", endpoint)})
    assert (reply.status, reply.json["token_type"]) == (200, "N_A")
    assert "cnf" not in claims_of(reply.json["access_token"])
    assert (await app.entries("identity_token.issued"))[-1]["bound_key"] == app.kid("planner")


# --- revocation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("selector", [{"agent": "planner"}, {"scope": "identity:issue"}, {"role": "planners"}])
async def test_a_revoked_token_proves_nobody(app: BrokerApp, selector: dict[str, str]) -> None:
    """Once a rule covers the token, or what it came of, no identity token comes of it."""
    parent = await subject(app)
    operator = await app.operator("revocations:write")
    body = {"selector": selector, "reason": "test"}
    made = await app.call("POST", "/v1/revocations", token=operator, json=body, headers={"Idempotency-Key": "k"})
    assert made.status == 201, made.body
    for agent in ("planner", "worker"):
        assert (await ask(app, agent, parent)).json["code"] == "subject_token_invalid"


@pytest.mark.parametrize(
    "selector",
    [
        {"audience": "vault"},
        {"agent": "planner"},
        {"agent": "worker"},
        {"role": "workers"},
        {"scope": "identity:issue"},
    ],
)
async def test_a_block_refuses(app: BrokerApp, selector: dict[str, str]) -> None:
    """A block covers an identity token by anything that it would say, or that it comes of."""
    operator = await app.operator("revocations:write")
    body = {"selector": selector, "reason": "test", "block": {"for": "5m"}}
    made = await app.call("POST", "/v1/revocations", token=operator, json=body, headers={"Idempotency-Key": "k"})
    assert made.status == 201, made.body
    if "audience" in selector or "workers" in selector.values() or "worker" in selector.values():
        parent = await subject(app)
        assert (await ask(app, "worker", parent)).json["code"] == "blocked"
        allowed = await ask(app, "planner", parent)
        assert allowed.status == (400 if "audience" in selector else 200)
    else:
        refused = await app.ask(app.form("planner", audience="broker", scope="identity:issue"))
        assert refused.json["code"] == "blocked"


async def test_they_are_not_among_what_a_rule_would_end(app: BrokerApp) -> None:
    """A preview counts what a rule ends. Nobody can end an identity token, so it is not counted."""
    await take(app, "planner", await subject(app))
    operator = await app.operator("revocations:write")
    body = {"selector": {"agent": "planner"}, "reason": "test", "preview": True}
    preview = await app.call("POST", "/v1/revocations", token=operator, json=body)
    assert preview.json["hits"]["tokens"] == 1


# --- never an access token --------------------------------------------------------------------------------------------


async def test_it_is_never_an_access_token(app: BrokerApp) -> None:
    """The broker does not take it for a token of its own: not to use, look at, exchange, or sign in with."""
    parent = await subject(app)
    token = await take(app, "planner", parent)
    assert (await app.call("GET", "/v1/leases", token=token)).json["code"] == "token_invalid"
    assert not await is_active(app, token)
    for asked in ({"subject_token": token}, {"actor_token": token, "actor_token_type": ACCESS_TOKEN}):
        form = {"grant_type": EXCHANGE, "subject_token": parent, "subject_token_type": ACCESS_TOKEN, **asked}
        signed_in = {} if "actor_token" in asked else app.form("planner")
        reply = await app.ask({**signed_in, **form})
        assert reply.json["code"] in {"subject_token_invalid", "actor_token_invalid"}
    for grant in (
        {"client_assertion": token, "client_assertion_type": ASSERTION_TYPE, "grant_type": "client_credentials"},
        {"assertion": token, "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer"},
        {
            "grant_type": EXCHANGE,
            "subject_token": parent,
            "subject_token_type": ACCESS_TOKEN,
            "actor_token": token,
            "actor_token_type": JWT,
        },
        {**app.form("worker"), "grant_type": EXCHANGE, "subject_token": token, "subject_token_type": JWT},
    ):
        reply = await app.ask({**grant, "audience": TICKETS, "scope": "tickets:read"})
        assert reply.status in {400, 401}, reply.body
        assert "access_token" not in reply.json
    revoked = await app.call("POST", "/oauth2/revoke", data={**app.form("planner"), "token": token})
    assert revoked.status == 200
    assert not await app.entries("rule.added")


# --- the form ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"scope": "tickets:read"}, "malformed_request"),
        ({"authorization_details": "[]"}, "malformed_request"),
        ({"may_act": "worker"}, "malformed_request"),
        ({"break_glass": "now"}, "malformed_request"),
        ({"audience": ""}, "audience_required"),
        ({"resource": AWS}, "audience_ambiguous"),
        ({"audience": "x" * 513}, "audience_not_allowed"),
        ({"audience": "a\nb"}, "malformed_request"),
        ({"task": "no task"}, "task_malformed"),
        ({"subject_token_type": JWT}, "token_type_not_supported"),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:id_token"}, "token_type_not_supported"),
        ({"requested_token_type": "urn:ietf:params:oauth:token-type:id_token"}, "token_type_not_supported"),
        ({"grant_type": "client_credentials"}, "audience_not_allowed"),
    ],
)
async def test_what_cannot_be_asked(app: BrokerApp, change: dict[str, str], code: str) -> None:
    """An identity token has an audience and perhaps a task, and comes of an exchange only."""
    reply = await ask(app, "planner", await subject(app), **{"audience": "vault", **change})
    assert (reply.status, reply.json["code"]) == (400, code), reply.body
    assert not await app.entries("identity_token.issued")


async def test_the_ledger_is_sound_with_them(template: Template, tmp_path: Path) -> None:
    """Entries of identity tokens and their refusals, and tasks that are stored for them, pass an offline check."""
    async with running_app(template, tmp_path / "broker") as app:
        await take(app, "worker", await subject(app))
        await ask(app, "helper", await subject(app))
    report = verify_file(tmp_path / "broker" / "ledger.db")
    assert report.problems == ()


async def reload(app: BrokerApp, old: str, new: str) -> None:
    """Change the policy, and put it in force."""
    policy = app.broker.config.policy
    text = policy.read_text()
    assert old in text
    policy.write_text(text.replace(old, new))
    await app.broker.policy_control.reload(by="operator", caller=HERE)
