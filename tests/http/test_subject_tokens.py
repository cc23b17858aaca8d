"""Token exchange on behalf of an agent that a trusted issuer vouches for (RFC 8693): never more than it may itself."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from broker.client import Client, KeyIdentity, TokenRefused
from broker.core.errors import Code
from broker.ledger.verify import verify_file
from tests.support.broker_app import HERE, TICKETS, BrokerApp, Reply, Template, make_template, running_app
from tests.support.identity_provider import IdentityProvider
from tests.support.team import (
    ACCESS_TOKEN,
    EXCHANGE,
    REFUNDS,
    TEAM,
    TEAM_POLICY,
    claims_of,
    decide,
    delegated,
    is_active,
    open_task,
)

ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
JWT = "urn:ietf:params:oauth:token-type:jwt"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ANN = "idp/ann"
ROLES = """
  readers:
    members: [{issuer: idp, subject: ann}]
    allow: [{audience: https://tickets.internal, scopes: ["tickets:close"]}]
  customers:
    members: [{issuer: idp, subject: ann}]
    allow:
      - audience: https://tickets.internal
        scopes: ["tickets:read", "tickets:comment"]
        default_scopes: ["tickets:read"]
        details: [ticket]
        max_ttl: 10m
      - {audience: https://payments.internal, scopes: ["refunds:create"]}
      - {audience: broker, scopes: ["tasks:open", "tasks:read", "tasks:close"]}
    limits: {tokens_per_minute: 5, tokens_per_task: 4}
    may_delegate_to: [workers]
  finance:
"""


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker with a team of agents."""
    return make_template(tmp_path_factory.mktemp("team") / "broker", TEAM_POLICY, TEAM)


@pytest.fixture
async def provider() -> AsyncIterator[IdentityProvider]:
    """Run an identity provider."""
    async with IdentityProvider(time.time) as running:
        yield running


@pytest.fixture
async def app(team: Template, tmp_path: Path, provider: IdentityProvider) -> AsyncIterator[BrokerApp]:
    """Run a broker that trusts the provider; customers may have their work done by workers."""
    issuer = f'issuers:\n  idp: {{preset: oidc, issuer: "{provider.url}", allow_private: true, allow_http: true}}\n'
    async with running_app(team, tmp_path / "broker") as running:
        policy = TEAM_POLICY.replace("audiences:\n", issuer + "audiences:\n", 1).replace("\n  finance:\n", ROLES, 1)
        running.broker.config.policy.write_text(policy)
        await running.broker.policy_control.reload(by="operator", caller=HERE)
        provider.audience = running.issuer
        yield running


async def change(app: BrokerApp, old: str, new: str) -> None:
    """Change the policy that is in force."""
    policy = app.broker.config.policy
    assert old in policy.read_text()
    policy.write_text(policy.read_text().replace(old, new))
    await app.broker.policy_control.reload(by="operator", caller=HERE)


async def on_behalf(app: BrokerApp, token: str, agent: str = "worker", **parameters: str) -> Reply:
    """Exchange a provider's token as an agent, for reading tickets unless told otherwise."""
    wanted = {"subject_token_type": ID_TOKEN, "resource": TICKETS, "scope": "tickets:read", **parameters}
    return await app.ask({**app.form(agent, subject_token=token, **wanted), "grant_type": EXCHANGE})


async def child_of(app: BrokerApp, token: str, **parameters: str) -> str:
    """Return what a worker gets for a provider's token."""
    reply = await on_behalf(app, token, **parameters)
    assert reply.status == 200, reply.body
    return str(reply.json["access_token"])


async def revoke(app: BrokerApp, selector: dict[str, str], **more: object) -> None:
    """Revoke as an operator."""
    operator = await app.operator("revocations:write")
    body = {"selector": selector, "reason": "test", **more}
    reply = await app.call("POST", "/v1/revocations", token=operator, json=body, headers={"Idempotency-Key": "one"})
    assert reply.status == 201, reply.body


@pytest.mark.parametrize("kind", [ID_TOKEN, JWT])
async def test_a_worker_acts_for_whom_the_issuer_vouches(app: BrokerApp, provider: IdentityProvider, kind: str) -> None:
    """The token is on behalf of the issuer's subject, shows who acts, and is recorded with what it came of."""
    subject_token = provider.oidc("ann", exp=int(time.time()) + 100)
    reply = await on_behalf(app, subject_token, subject_token_type=kind)
    assert reply.status == 200, reply.body
    assert reply.json["issued_token_type"] == ACCESS_TOKEN
    claims, above = claims_of(reply.json["access_token"]), claims_of(subject_token)
    assert (claims["sub"], claims["client_id"], claims["act"]) == (ANN, "worker", {"sub": "worker"})
    assert (claims["scope"], claims["aud"], claims["exp"] <= above["exp"]) == ("tickets:read", TICKETS, True)
    digest = hashlib.sha256(subject_token.encode()).hexdigest()
    private = claims["broker"]
    assert (private["role"], private["issuer"]) == ("workers", "registered")
    assert private["parents"] == [f"subject_{digest[:32]}"]
    assert (private["inherited"]["issuer"], private["inherited"]["role"]) == (["idp"], ["customers"])
    (issued,) = [entry for entry in await app.entries("token.issued") if entry["ref"] == claims["jti"]]
    assert (issued["subject_token"], issued["subject_token_id"]) == (digest, above["jti"])
    assert (issued["on_behalf_of"], issued["actors"]) == (ANN, ["worker"])
    assert subject_token not in str(await app.entries())


async def test_a_client_acts_for_whom_the_issuer_vouches(app: BrokerApp, provider: IdentityProvider) -> None:
    """The client library says what the token is; taken for one of the broker's own, it is refused."""
    async with Client(app.issuer, identity=KeyIdentity("worker", app.keys["worker"])) as worker:
        token = await worker.exchange(provider.oidc("ann"), TICKETS, ["tickets:read"], subject_token_type="id_token")
        with pytest.raises(TokenRefused) as refused:
            await worker.exchange(provider.oidc("ann"), TICKETS, ["tickets:read"])
    assert claims_of(token.access_token)["act"] == {"sub": "worker"}
    assert refused.value.code is Code.SUBJECT_TOKEN_INVALID


async def test_the_defaults_are_the_subjects(app: BrokerApp, provider: IdentityProvider) -> None:
    """Without scopes it is what the subject would have got without scopes, as far as the worker may have that."""
    form = app.form("worker", subject_token=provider.oidc("ann"), subject_token_type=JWT, resource=TICKETS)
    reply = await app.ask({**form, "grant_type": EXCHANGE})
    assert (reply.status, reply.json["scope"]) == (200, "tickets:read")
    assert reply.json["expires_in"] <= 600  # the subject's line says so


@pytest.mark.parametrize(
    ("agent", "parameters", "code"),
    [
        ("helper", {}, "delegation_not_allowed"),
        ("planner", {}, "delegation_not_allowed"),
        ("worker", {"scope": "tickets:close"}, "scope_not_allowed"),
        ("worker", {"scope": "tickets:comment"}, "scope_not_allowed"),
        ("worker", {"scope": "tickets:comment tickets:read"}, "scope_not_allowed"),
        ("worker", {"resource": REFUNDS, "scope": "refunds:create"}, "scope_not_allowed"),
        ("worker", {"resource": "https://elsewhere.internal"}, "audience_not_allowed"),
        ("worker", {"authorization_details": '[{"type": "agent_task"}]'}, "details_not_allowed"),
        ("worker", {"task": "task_00000000000000000000000000"}, "task_not_open"),
    ],
)
async def test_no_more_than_both_may(
    app: BrokerApp, provider: IdentityProvider, agent: str, parameters: dict[str, str], code: str
) -> None:
    """A role that may not delegate lends nothing; one that may lends what both have. Each refusal is recorded."""
    token = provider.oidc("ann")
    reply = await on_behalf(app, token, agent, **parameters)
    assert (reply.status, reply.json["code"]) == (400, code), reply.body
    refused = (await app.entries("token.refused"))[-1]
    assert (refused["code"], refused["on_behalf_of"]) == (code, ANN)
    assert refused["subject_token"] == hashlib.sha256(token.encode()).hexdigest()


async def test_a_stranger_to_the_policy_lends_nothing(app: BrokerApp, provider: IdentityProvider) -> None:
    """An issuer may vouch for anybody; without a role there is nothing to hand on."""
    assert (await on_behalf(app, provider.oidc("bob"))).json["code"] == "delegation_not_allowed"


Bad = Callable[[BrokerApp, IdentityProvider], str]


@pytest.mark.parametrize(
    "bad",
    [
        lambda _, idp: idp.oidc("ann", exp=int(time.time()) - 5),
        lambda _, idp: idp.oidc("ann", exp=int(time.time()) - 3600),
        lambda _, idp: idp.oidc("ann", exp=None),
        lambda _, idp: idp.oidc("ann", aud="https://other.example"),
        lambda _, idp: idp.oidc("ann", iss="https://other.example"),
        lambda _, idp: idp.oidc("ann")[:-8] + "AAAAAAAA",
        lambda _, idp: idp.oidc("ann", act={"sub": "somebody"}),
        lambda _, idp: idp.oidc("ann", may_act={"sub": "worker"}),
        lambda _, idp: idp.oidc("ann", cnf={"jkt": "x"}),
        lambda _, idp: idp.oidc("é" * 300),
        lambda app, _: app.assertion("planner"),
        lambda app, _: app.assertion("worker"),
        lambda *_: "x.y.z",
        lambda *_: "é" * 5_000,
    ],
)
async def test_a_bad_subject_token_is_good_for_nothing(app: BrokerApp, provider: IdentityProvider, bad: Bad) -> None:
    """Expired, for others, forged, with actors or keys that are not ours, too long, or of a registered agent."""
    reply = await on_behalf(app, bad(app, provider))
    assert (reply.json["error"], reply.json["code"]) == ("invalid_request", "subject_token_invalid"), reply.body
    assert not [entry for entry in await app.entries("token.issued") if entry["agent"] == "worker"]


async def test_tokens_of_ours_are_no_identities(app: BrokerApp, provider: IdentityProvider) -> None:
    """An access token under another type is refused, and so is a provider's token as an access token."""
    own = await app.token("planner", TICKETS)
    assert (await on_behalf(app, own)).json["code"] == "subject_token_invalid"
    as_access = await on_behalf(app, provider.oidc("ann"), subject_token_type=ACCESS_TOKEN)
    assert as_access.json["code"] == "subject_token_invalid"


async def test_nobody_acts_for_itself(app: BrokerApp, provider: IdentityProvider) -> None:
    """Whoever shows the token of its own platform as both gets nothing that way."""
    token = provider.oidc("ann")
    form = {"grant_type": EXCHANGE, "subject_token": token, "subject_token_type": JWT, "resource": TICKETS}
    reply = await app.ask({**form, "actor_token": token, "actor_token_type": JWT})
    assert reply.json["code"] == "subject_token_invalid"


async def test_an_actor_that_a_platform_vouches_for(app: BrokerApp, provider: IdentityProvider) -> None:
    """Both can come by their platforms' tokens."""
    await change(app, "members: [{agent: worker}]", "members: [{agent: worker}, {issuer: idp, subject: robot}]")
    form = {"grant_type": EXCHANGE, "resource": TICKETS, "scope": "tickets:read"}
    form |= {"subject_token": provider.oidc("ann"), "subject_token_type": ID_TOKEN}
    reply = await app.ask({**form, "actor_token": provider.oidc("robot"), "actor_token_type": JWT})
    assert reply.status == 200, reply.body
    claims = claims_of(reply.json["access_token"])
    assert (claims["sub"], claims["act"]) == (ANN, {"sub": "idp/robot"})
    assert claims["broker"]["inherited"]["role"] == ["customers"]


@pytest.mark.parametrize("field", ["agent", "issuer", "role", "token", "task", "key", "its own agent", "its own token"])
async def test_it_dies_with_what_it_rests_on(app: BrokerApp, provider: IdentityProvider, field: str) -> None:
    """A rule for the subject, its issuer, its role, its token, its task, or the issuer's key ends what came of it."""
    child = await child_of(app, provider.oidc("ann"))
    grandchild = await delegated(app, "helper", child)
    own = await app.token("worker", TICKETS)
    claims = claims_of(child)
    assert claims_of(grandchild)["act"] == {"sub": "helper", "act": {"sub": "worker"}}
    selectors = {
        "agent": {"agent": ANN},
        "issuer": {"issuer": "idp"},
        "role": {"role": "customers"},
        "token": {"token": claims["broker"]["parents"][0]},
        "task": {"task": claims["broker"]["task"]},
        "key": {"key": claims["broker"]["inherited"]["key"][0]},
        "its own agent": {"agent": "worker"},
        "its own token": {"token": claims["jti"]},
    }
    await revoke(app, selectors[field])
    assert [await is_active(app, one) for one in (child, grandchild)] == [False, False]
    assert await is_active(app, own) == (field != "its own agent")


async def test_a_block_refuses_the_subject(app: BrokerApp, provider: IdentityProvider) -> None:
    """Whoever is blocked has nothing done on its behalf either."""
    token = provider.oidc("ann")
    await revoke(app, {"agent": ANN}, block={})
    assert (await on_behalf(app, token)).json["code"] == "blocked"


async def test_one_token_is_one_task(app: BrokerApp, provider: IdentityProvider) -> None:
    """All that comes of a token shares one budget, and closing the task ends its use; another token has its own."""
    token, other = provider.oidc("ann"), provider.oidc("ann")
    children = [await child_of(app, token) for _ in range(3)]
    tasks = {claims_of(child)["broker"]["task"] for child in children}
    assert len(tasks) == 1
    state = await app.services.records.task(tasks.pop())
    assert state is not None
    task = state.task
    assert (task.owner, task.role, task.implicit) == (ANN, "customers", True)
    assert (task.deadline, state.balances["tokens"].left) == (claims_of(token)["exp"], 1)
    last = await delegated(app, "helper", children[0])
    assert (await on_behalf(app, token)).json["code"] == "budget_used_up"
    assert await is_active(app, await child_of(app, other))
    await revoke(app, {"task": task.id})
    assert [await is_active(app, child) for child in (*children, last)] == [False] * 4
    assert (await on_behalf(app, token)).json["code"] == "task_not_open"


async def test_a_token_that_was_revoked_is_of_no_use_any_more(app: BrokerApp, provider: IdentityProvider) -> None:
    """A rule about its id bars it, not only what came of it; the agent's other tokens are good."""
    token, other = provider.oidc("ann"), provider.oidc("ann")
    child = await child_of(app, token)
    await revoke(app, {"token": claims_of(child)["broker"]["parents"][0]})
    assert (await on_behalf(app, token)).json["code"] == "subject_token_invalid"
    assert await is_active(app, await child_of(app, other))


async def test_the_subjects_rate_counts(app: BrokerApp, provider: IdentityProvider) -> None:
    """The limit of the subject's role holds for all who act for it together."""
    tokens = [provider.oidc("ann") for _ in range(7)]
    replies = await asyncio.gather(*(on_behalf(app, token) for token in tokens))
    assert sorted(reply.status for reply in replies) == [200] * 5 + [429] * 2


async def test_a_token_that_is_good_once(app: BrokerApp, provider: IdentityProvider) -> None:
    """Where the policy wants unique ids, one token is exchanged once, however many try at the same time."""
    await change(app, "allow_http: true}", "allow_http: true, require_unique_jti: true}")
    token = provider.oidc("ann")
    replies = await asyncio.gather(*(on_behalf(app, token) for _ in range(3)))
    assert sorted(reply.status for reply in replies) == [200, 400, 400], [reply.body for reply in replies]
    assert {reply.json["code"] for reply in replies if reply.status == 400} == {"subject_token_invalid"}


async def test_a_person_may_have_to_agree(app: BrokerApp, provider: IdentityProvider) -> None:
    """What the subject would need approval for, others need it for on its behalf; its owner does not decide."""
    line = "max_ttl: 10m\n"
    await change(app, line, f"{line}        approval: {{approvers: finance, quorum: 1, expires: 10m}}\n")
    await change(app, "allow_http: true}", "allow_http: true, require_unique_jti: true}")
    token = provider.oidc("ann")
    paused = await on_behalf(app, token)
    assert paused.json["error"] == "authorization_pending", paused.body
    request = paused.json["auth_req_id"]
    reader = await app.token("carol", "broker", "approvals:read")
    shown = (await app.call("GET", f"/v1/approvals/{request}", token=reader)).json
    assert (shown["agent"], shown["chain"], shown["task_owner"]) == ("worker", [ANN], ANN)
    await decide(app, "carol", request)
    another = await on_behalf(app, provider.oidc("ann"), auth_req_id=request)
    assert another.json["code"] == "approval_invalid"
    assert (await on_behalf(app, token, auth_req_id=request)).status == 200


async def test_a_task_that_the_subject_opened(app: BrokerApp, provider: IdentityProvider) -> None:
    """It can be named, within its ceiling; nobody else's can, and a role may demand one."""
    form = {"grant_type": JWT_BEARER, "assertion": provider.oidc("ann"), "audience": "broker", "scope": "tasks:open"}
    ann = (await app.ask(form)).json["access_token"]
    opened = await app.call(
        "POST", "/v1/tasks", token=ann, json={"purpose": "my refund", "scopes": {TICKETS: ["tickets:comment"]}}
    )
    narrow = opened.json["id"]
    task = (await app.call("POST", "/v1/tasks", token=ann, json={"purpose": "my tickets"})).json["id"]
    others = (await open_task(app))["id"]
    token = provider.oidc("ann")
    assert claims_of(await child_of(app, token, task=task))["broker"]["task"] == task
    assert (await on_behalf(app, token, task=others)).json["code"] == "task_not_open"
    assert (await on_behalf(app, token, task=narrow)).json["code"] == "task_ceiling"
    await change(
        app,
        "    may_delegate_to: [workers]\n  finance",
        "    may_delegate_to: [workers]\n    tasks: explicit\n  finance",
    )
    assert (await on_behalf(app, token)).json["code"] == "task_required"


async def test_own_grants_are_within_the_subjects_token(app: BrokerApp, provider: IdentityProvider) -> None:
    """Where the policy lets a delegate have its own grants, they end with the subject's token, and die with it."""
    await change(
        app, "may_delegate_to: [workers]\n  finance", "may_delegate_to: [{role: workers, own_grants: true}]\n  finance"
    )
    child = await child_of(app, provider.oidc("ann", exp=int(time.time()) + 60), scope="tickets:close")
    assert claims_of(child)["exp"] <= time.time() + 60
    await revoke(app, {"agent": ANN})
    assert not await is_active(app, child)


async def test_a_provider_that_is_down(app: BrokerApp, provider: IdentityProvider) -> None:
    """When its keys cannot be had, the answer is 503, not a refusal."""
    token = provider.oidc("ann")
    await provider.__aexit__()
    reply = await on_behalf(app, token)
    assert (reply.status, reply.json["code"]) == (503, "issuer_unavailable")


async def test_the_ledger_is_whole(app: BrokerApp, provider: IdentityProvider) -> None:
    """What is stored of such tasks and tokens is what the entries come to."""
    await child_of(app, provider.oidc("ann"))
    report = await asyncio.to_thread(verify_file, app.file)
    assert report.problems == ()
