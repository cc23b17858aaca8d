"""Token exchange (RFC 8693) over HTTP: a part of a token for another agent, and never more than that."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.broker_app import HERE, TICKETS, BrokerApp, Template, make_template, running_app
from tests.support.team import (
    ACCESS_TOKEN,
    TEAM,
    TEAM_POLICY,
    claims_of,
    delegated,
    exchange,
    is_active,
    open_task,
)


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker with a team of agents."""
    return make_template(tmp_path_factory.mktemp("team") / "broker", TEAM_POLICY, TEAM)


@pytest.fixture
async def app(team: Template, tmp_path: Path) -> AsyncIterator[BrokerApp]:
    """Run it."""
    async with running_app(team, tmp_path / "broker") as running:
        yield running


BOTH = "tickets:comment tickets:read"


async def test_a_delegate_gets_a_part_of_what_it_was_handed(app: BrokerApp) -> None:
    """The child is the actor's, on behalf of the first agent, with the parent's lineage and no more than its scopes."""
    parent = await app.token("planner", TICKETS, BOTH)
    reply = await exchange(app, "worker", parent, scope="tickets:read")
    assert reply.status == 200, reply.body
    assert reply.json["issued_token_type"] == ACCESS_TOKEN
    above, child = claims_of(parent), claims_of(reply.json["access_token"])
    assert (child["sub"], child["client_id"], child["act"]) == ("planner", "worker", {"sub": "worker"})
    assert (child["scope"], child["aud"]) == ("tickets:read", TICKETS)
    assert child["exp"] <= above["exp"]
    assert child["broker"]["parents"] == [above["jti"]]
    assert child["broker"]["task"] == above["broker"]["task"]
    assert child["broker"]["inherited"]["scope"] == ["tickets:comment"]
    assert child["broker"]["inherited"]["role"] == ["planners"]


async def test_a_chain_nests_its_actors(app: BrokerApp) -> None:
    """Three hands: who acts now stands outermost, and the first agent stays the subject."""
    first = await app.token("planner", TICKETS, BOTH)
    second = await delegated(app, "worker", first)
    third = await delegated(app, "helper", second)
    claims = claims_of(third)
    assert claims["act"] == {"sub": "helper", "act": {"sub": "worker"}}
    assert claims["sub"] == "planner"
    assert claims["broker"]["parents"] == [claims_of(first)["jti"], claims_of(second)["jti"]]


@pytest.mark.parametrize("selector", [{"agent": "worker"}, {"role": "workers"}, {"scope": "tickets:comment"}])
async def test_a_token_dies_with_what_only_an_ancestor_had(app: BrokerApp, selector: dict[str, str]) -> None:
    """A rule for an agent in the middle, for its role, or for a scope that only an ancestor had, reaches the end."""
    first = await app.token("planner", TICKETS, BOTH)
    third = await delegated(app, "helper", await delegated(app, "worker", first))
    assert await is_active(app, third)
    operator = await app.operator("revocations:write")
    body = {"selector": selector, "reason": "test"}
    headers = {"Idempotency-Key": "one"}
    preview = await app.call("POST", "/v1/revocations", token=operator, json={**body, "preview": True})
    revoked = await app.call("POST", "/v1/revocations", token=operator, json=body, headers=headers)
    assert revoked.status == 201, revoked.body
    assert not await is_active(app, third)
    assert preview.json["hits"]["tokens"] == (3 if "scope" in selector else 2)
    assert await is_active(app, first) == ("scope" not in selector)


@pytest.mark.parametrize(
    ("actor", "parameters", "code"),
    [
        ("stranger", {}, "delegation_not_allowed"),
        ("helper", {}, "delegation_not_allowed"),
        ("worker", {"scope": "tickets:close"}, "scope_not_allowed"),
        ("worker", {"scope": "tickets:comment"}, "scope_not_allowed"),
        ("worker", {"scope": "tickets:READ"}, "scope_not_allowed"),
        ("worker", {"scope": "tickets:read tickets:read tickets:close"}, "scope_not_allowed"),
        ("worker", {"resource": "https://payments.internal"}, "audience_not_allowed"),
        ("worker", {"task": "task_00000000000000000000000000"}, "task_not_open"),
        ("planner", {"scope": "tickets:close"}, "scope_not_allowed"),
    ],
)
async def test_no_more_than_the_parent_and_the_policy_allow(
    app: BrokerApp, actor: str, parameters: dict[str, str], code: str
) -> None:
    """Whatever the request looks like, the parent's claims and the policy decide; each refusal is recorded."""
    parent = await app.token("planner", TICKETS, BOTH)
    reply = await exchange(app, actor, parent, **parameters)
    assert (reply.status, reply.json["code"]) == (400, code), reply.body
    assert (await app.entries("token.refused"))[-1]["code"] == code


@pytest.mark.parametrize("change", ["flip", "foreign", "cut"])
async def test_a_subject_token_must_be_ours_and_good(app: BrokerApp, change: str) -> None:
    """A token that was changed, made by somebody else, or is no token, is refused without a word about why."""
    parent = await app.token("planner", TICKETS, BOTH)
    bad = {"flip": parent[:-4] + "AAAA", "foreign": app.assertion("planner"), "cut": parent.rsplit(".", 1)[0]}[change]
    reply = await exchange(app, "worker", bad)
    assert (reply.json["error"], reply.json["code"]) == ("invalid_request", "subject_token_invalid")


async def test_a_refused_exchange_is_explained_for_what_it_was(app: BrokerApp) -> None:
    """The ledger does not know what the token allowed that was to be exchanged, and the explanation says so."""
    parent = await app.token("planner", TICKETS, BOTH)
    refusal = (await exchange(app, "helper", parent)).json["refusal"]
    operator = await app.operator("operator:read")
    told = (await app.call("POST", "/v1/policy/explain", token=operator, json={"refusal": refusal})).json
    assert "to exchange a token" in told["notes"][0]
    asked = {"audience": TICKETS, "scopes": ["tickets:read"], "delegated_by": "planners"}
    for agent, outcome in (("helper", "denied"), ("worker", "granted")):
        body = {"agent": {"id": agent}, "ask": asked}
        told = (await app.call("POST", "/v1/policy/explain", token=operator, json=body)).json
        assert told["outcome"] == outcome, told


async def test_a_revoked_token_cannot_be_exchanged(app: BrokerApp) -> None:
    """Once a rule covers the parent, nothing comes of it any more."""
    parent = await app.token("planner", TICKETS, BOTH)
    assert (await app.call("POST", "/oauth2/revoke", data={**app.form("planner"), "token": parent})).status == 200
    reply = await exchange(app, "worker", parent)
    assert reply.json["code"] == "subject_token_invalid"


async def test_may_act_names_the_only_actor(app: BrokerApp) -> None:
    """A token that names its actor is for nobody else, whatever the policy would allow."""
    for_worker = await app.token("planner", TICKETS, BOTH, may_act="worker")
    assert claims_of(for_worker)["may_act"] == {"sub": "worker"}
    assert (await exchange(app, "worker", for_worker)).status == 200
    for_other = await app.token("planner", TICKETS, BOTH, may_act="helper")
    assert (await exchange(app, "worker", for_other)).json["code"] == "delegation_not_allowed"


async def test_own_grants_are_the_delegates_own_and_die_with_the_parent(app: BrokerApp) -> None:
    """Where the policy says so, a delegate has what its own role allows, within the task, no longer than the parent."""
    parent = await delegated(app, "worker", await app.token("planner", TICKETS, BOTH), scope="tickets:read")
    child = await delegated(app, "carol", parent, resource=TICKETS, scope="tickets:close")
    assert claims_of(child)["scope"] == "tickets:close"
    assert claims_of(child)["exp"] <= claims_of(parent)["exp"]
    await app.call("POST", "/oauth2/revoke", data={**app.form("worker"), "token": parent})
    assert not await is_active(app, child)


async def test_details_are_covered_element_by_element(app: BrokerApp) -> None:
    """A child may have a part of the parent's details, has all of them if it asks for none, and never more."""
    two = json.dumps([{"type": "ticket", "ids": ["T-1", "T-2"]}])
    one, other = two.replace(', "T-2"', ""), two.replace("T-2", "T-3")
    parent = await app.token("planner", TICKETS, BOTH, authorization_details=two)
    kept = await exchange(app, "worker", parent, scope="tickets:read")
    part = await exchange(app, "worker", parent, scope="tickets:read", authorization_details=one)
    more = await exchange(app, "worker", parent, scope="tickets:read", authorization_details=other)
    assert kept.json["authorization_details"] == json.loads(two)
    assert part.json["authorization_details"] == json.loads(one)
    assert more.json["code"] == "details_invalid"
    unfit = two.replace("T-1", "x")
    reply = await app.ask(app.form("planner", resource=TICKETS, scope="tickets:read", authorization_details=unfit))
    assert (reply.json["error"], reply.json["code"]) == ("invalid_authorization_details", "details_invalid")


async def test_a_ceiling_in_the_details_only_sinks(app: BrokerApp) -> None:
    """Where the schema says that a number is an upper bound, each token of a line has the same or a lower one."""

    def with_most(most: int | bool) -> str:
        return json.dumps([{"type": "ticket", "ids": ["T-1"], "most": most}])

    parent = await app.token("planner", TICKETS, BOTH, authorization_details=with_most(10))
    child = await delegated(app, "worker", parent, scope="tickets:read", authorization_details=with_most(4))
    assert claims_of(child)["authorization_details"] == json.loads(with_most(4))
    for token, most in ((parent, 11), (child, 5), (child, 10), (child, True)):
        reply = await exchange(app, "worker", token, scope="tickets:read", authorization_details=with_most(most))
        assert reply.json["code"] == "details_invalid", reply.body


async def test_a_bound_token_is_exchanged_only_against_a_key_of_ones_own(app: BrokerApp) -> None:
    """A sender-constrained parent has sender-constrained children, bound to the actor's key, not to the parent's."""
    endpoint = f"{app.issuer}/oauth2/token"
    proof = app.proof(app.keys["planner"], "POST", endpoint)
    bound = await app.ask(app.form("planner", resource=TICKETS, scope=BOTH), {"DPoP": proof})
    parent = bound.json["access_token"]
    assert (await exchange(app, "worker", parent)).json["code"] == "proof_required"
    form = app.form("worker", subject_token=parent, subject_token_type=ACCESS_TOKEN)
    form["grant_type"] = "urn:ietf:params:oauth:grant-type:token-exchange"
    reply = await app.ask(form, {"DPoP": app.proof(app.keys["worker"], "POST", endpoint)})
    assert reply.json["token_type"] == "DPoP"
    child = claims_of(reply.json["access_token"])
    assert child["cnf"] == {"jkt": app.kid("worker")}
    assert app.kid("planner") in child["broker"]["inherited"]["key"]


async def test_the_depth_is_limited(app: BrokerApp) -> None:
    """A line has 16 tokens at most, however little each changes."""
    token = await app.token("planner", TICKETS, BOTH)
    for _ in range(16):
        token = await delegated(app, "planner", token)
    assert "act" not in claims_of(token)
    assert (await exchange(app, "planner", token)).json["code"] == "delegation_too_deep"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:saml2"}, "token_type_not_supported"),
        ({"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, "token_type_not_supported"),
        ({"subject_token": ""}, "malformed_request"),
        ({"actor_token": "x"}, "malformed_request"),
        ({"actor_token": "x", "actor_token_type": ACCESS_TOKEN}, "client_authentication_ambiguous"),
    ],
)
async def test_what_is_no_exchange(app: BrokerApp, change: dict[str, str], code: str) -> None:
    """Types that are not supported, halves of pairs, and two ways to say who acts."""
    parent = await app.token("planner", TICKETS, BOTH)
    parameters = {"subject_token_type": ACCESS_TOKEN, **change}
    form = app.form("worker", subject_token=parent) | parameters
    reply = await app.ask({**form, "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange"})
    assert (reply.status, reply.json["code"]) == (400, code), reply.body


async def test_an_actor_token_says_who_acts(app: BrokerApp) -> None:
    """An agent's own token for the broker's API stands for it; one for anybody else's resource does not."""
    parent = await app.token("planner", TICKETS, BOTH)
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": parent,
        "subject_token_type": ACCESS_TOKEN,
        "actor_token_type": ACCESS_TOKEN,
    }
    own = await app.token("planner", "broker", "tasks:open")
    narrowed = await app.ask({**form, "actor_token": own, "scope": "tickets:read"})
    assert narrowed.status == 200, narrowed.body
    elsewhere = await app.ask({**form, "actor_token": parent})
    assert elsewhere.json["code"] == "actor_token_invalid"


async def test_a_child_in_a_sub_task(app: BrokerApp) -> None:
    """A child can be put into a sub-task of its parent's task, and into no other; it ends with either."""
    task = await open_task(app)
    sub = await open_task(app, parent=task["id"])
    other = await open_task(app)
    parent = await app.token("planner", TICKETS, BOTH, task=task["id"])
    child = await delegated(app, "worker", parent, task=sub["id"])
    assert claims_of(child)["broker"]["path"] == [task["id"]]
    assert (await exchange(app, "worker", parent, task=other["id"])).json["code"] == "task_not_open"
    closing = await app.token("planner", "broker", "tasks:close")
    assert (await app.call("DELETE", f"/v1/tasks/{task['id']}", token=closing)).status == 200
    assert not await is_active(app, child)
    assert not await is_active(app, parent)
    again = await app.ask(app.form("planner", resource=TICKETS, scope=BOTH, task=sub["id"]))
    assert again.json["code"] == "task_not_open"


async def test_a_role_that_works_in_opened_tasks_takes_no_other_with_a_token(app: BrokerApp) -> None:
    """What a token brings that named no task is no task that was opened, whoever hands it on."""
    policy = app.broker.config.policy
    explicit = "    may_delegate_to: [helpers, {role: finance, own_grants: true}]"
    policy.write_text(policy.read_text().replace(explicit, explicit + "\n    tasks: explicit"))
    await app.broker.policy_control.reload(by="operator", caller=HERE)
    task = await open_task(app)
    refused = await exchange(app, "worker", await app.token("planner", TICKETS, BOTH), scope="tickets:read")
    assert (refused.status, refused.json["code"]) == (400, "task_required"), refused.body
    await delegated(app, "worker", await app.token("planner", TICKETS, BOTH, task=task["id"]), scope="tickets:read")


async def test_impersonation_names_no_actors_but_dies_with_them(app: BrokerApp) -> None:
    """Only where the policy says so: the token has no ``act``, and a rule for the actor finds it all the same."""
    policy = app.broker.config.policy
    text = policy.read_text().replace(
        "may_delegate_to: [workers]", "may_delegate_to: [{role: workers, impersonation: true}]"
    )
    policy.write_text(text)
    await app.broker.policy_control.reload(by="operator", caller=HERE)
    parent = await app.token("planner", TICKETS, BOTH)
    child = await delegated(app, "worker", parent)
    assert "act" not in claims_of(child)
    assert claims_of(child)["broker"]["via"] == ["worker"]
    later = await delegated(app, "helper", child)
    assert "act" not in claims_of(later)
    operator = await app.operator("revocations:write")
    order = {"selector": {"agent": "worker"}, "reason": "test"}
    await app.call("POST", "/v1/revocations", token=operator, json=order, headers={"Idempotency-Key": "k"})
    assert [await is_active(app, token) for token in (parent, child, later)] == [True, False, False]
