"""The story of a refund: a task, a delegation, an approval, an action, a lease, and the rule that ended it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from broker.cli.story_lines import story_lines
from broker.core.story import Story
from broker.ledger.reading import offline, stories
from tests.support.broker_app import TICKETS, BrokerApp, Reply, Template, make_template, running_app
from tests.support.leases import BACKENDS, reaping, revoke, settled, take
from tests.support.team import REFUNDS, TEAM, TEAM_POLICY, claims_of, decide, delegated, open_task

POLICY = (
    TEAM_POLICY.replace('"operator:read", ', '"operator:read", "ledger:read", ')
    .replace("roles:\n", "secrets:\n  db: {backend: local, tier: read, generate: 32}\nroles:\n", 1)
    .replace("details: [ticket, agent_task]}", "details: [ticket, agent_task]}\n      - {secret: db}", 1)
    .replace('"tasks:close"]}', '"tasks:close", "leases:take"]}', 1)
)
HOSTILE = 'refund "T-8812"\u2026 #999  rule 1 by root'


@dataclass(frozen=True)
class Refund:
    """What happened."""

    task: str
    below: str
    token: str
    child: str
    approval: str
    action: str
    lease: str
    rule: str


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A folder of a broker with a team that can lease a secret."""
    made = make_template(tmp_path_factory.mktemp("team") / "broker", agents=TEAM, policy=POLICY)
    settings = made.folder / "broker.toml"
    settings.write_text(settings.read_text() + BACKENDS)
    return made


@pytest.fixture
async def app(team: Template, tmp_path: Path) -> AsyncIterator[BrokerApp]:
    """A running broker for the team."""
    async with running_app(team, tmp_path / "broker") as running:
        yield running


async def _refund(app: BrokerApp, **parameters: str) -> Reply:
    return await app.ask(app.form("planner", resource=REFUNDS, scope="refunds:create", **parameters))


@pytest.fixture
async def refund(app: BrokerApp) -> Refund:
    """Let it happen: beside it, another task that is none of it."""
    beside = (await open_task(app, purpose="something else"))["id"]
    await app.token("planner", TICKETS, "tickets:read", task=beside)
    task = (await open_task(app, purpose=HOSTILE))["id"]
    below = (await open_task(app, parent=task))["id"]
    token = await app.token("planner", TICKETS, "tickets:read", task=task)
    child = await delegated(app, "worker", token, audience=TICKETS, scope="tickets:read")
    approval = (await _refund(app, task=below)).json["auth_req_id"]
    await decide(app, "carol", approval)
    approved = await _refund(app, task=below, auth_req_id=approval)
    assert approved.status == 200, approved.body
    gateway = await app.token("gateway", "broker", "actions:reserve")
    body = {"token": approved.json["access_token"], "action": "refunds:create", "target": "order 1"}
    reserved = await app.call("POST", "/v1/actions", token=gateway, json=body)
    assert reserved.status == 201, reserved.body
    action = reserved.json["action_id"]
    body = {"outcome": "done", "result": "paid #7"}
    done = await app.call("POST", f"/v1/actions/{action}/settle", token=gateway, json=body)
    assert done.status == 200, done.body
    lease = (await take(app, await app.token("planner", "broker", "leases:take", task=below))).json["lease_id"]
    rule = (await revoke(app, task=task))["id"]
    async with reaping(app):
        await settled(app, lease)
    await app.ask(app.form("planner", resource=TICKETS, scope="tickets:read", task=task))
    jti = claims_of(token)["jti"]
    return Refund(task, below, jti, claims_of(child)["jti"], approval, action, lease, rule)


async def _trace(app: BrokerApp, ref: str) -> dict[str, Any]:
    reply = await app.call("GET", f"/v1/ledger/trace/{ref}", token=await app.operator("ledger:read"))
    assert reply.status == 200, reply.body
    answer: dict[str, Any] = reply.json
    return answer


def _nodes(
    nodes: list[dict[str, Any]], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield each node with the kinds above it."""
    for node in nodes:
        yield above, node
        yield from _nodes(node["below"], (*above, node["entry"]["kind"]))


async def test_the_story_of_a_task(app: BrokerApp, refund: Refund) -> None:
    """Everything that was done in it stands in its place, and nothing that was done beside it."""
    answer = await _trace(app, refund.task)
    (top,) = answer["story"]
    assert (top["entry"]["ref"], top["entry"]["purpose"], answer["cut"]) == (refund.task, HOSTILE, False)
    found = list(_nodes(answer["story"]))
    places = {(above, node["entry"]["kind"]) for above, node in found}
    task, issued = "task.opened", "token.issued"
    assert places >= {
        ((task,), task),
        ((task, issued), issued),
        ((task, task), "approval.requested"),
        ((task, task, "approval.requested"), "approval.voted"),
        ((task, task, issued), "action.reserved"),
        ((task, task, issued, "action.reserved"), "action.settled"),
        ((task, task, issued), "lease.intended"),
        ((task, task, issued, "lease.intended"), "lease.sealed"),
        ((task, task, issued, "lease.intended"), "lease.ended"),
        ((task, task, issued, "lease.intended"), "lease.settled"),
        ((task,), "rule.added"),
        ((task,), "token.refused"),
    }
    assert not any(node["entry"].get("purpose") == "something else" for _, node in found)
    (rule,) = [node for _, node in found if node["entry"]["kind"] == "rule.added"]
    assert {node["ended_by"] for _, node in found if node["entry"]["kind"] == issued} == {rule["seq"]}
    assert len({node["seq"] for _, node in found}) == len(found)


@pytest.mark.parametrize("name", ["token", "child", "approval", "action", "lease", "rule", "below"])
async def test_the_story_of_each_part(app: BrokerApp, refund: Refund, name: str) -> None:
    """Whatever one begins with, the story goes back to the topmost task with its purpose, and names the rule."""
    ref = getattr(refund, name)
    answer = await _trace(app, ref)
    (top,) = answer["story"]
    assert top["entry"]["ref"] == refund.task
    found = [node for _, node in _nodes(answer["story"])]
    assert ref in {node["entry"].get("ref") for node in found}
    if name != "below":
        assert refund.rule in {node["entry"].get("ref") for node in found}
    if name in {"token", "child"}:
        issued = [node["entry"]["ref"] for node in found if node["entry"]["kind"] == "token.issued"]
        assert issued == [refund.token, refund.child]


async def test_a_story_as_it_prints(app: BrokerApp, refund: Refund) -> None:
    """One line each, with the place of its entry at the end; a text from outside cannot pass for anything else."""
    answer = await _trace(app, refund.task)
    lines = story_lines(answer)
    places = [node["seq"] for _, node in _nodes(answer["story"])]
    assert [int(line.rpartition("#")[2]) for line in lines] == places
    text = "\n".join(lines)
    assert 'done: "paid #7"' in text
    assert "approved by carol" in text
    assert all(
        word in text for word in (refund.action, refund.lease, "ended by #", "lease revoked", "secret handed out")
    )


async def test_the_same_story_from_the_file(app: BrokerApp, refund: Refund, tmp_path: Path) -> None:
    """Without the broker, the ledger's file tells the same."""
    told = offline.read_file(
        tmp_path / "broker" / "ledger.db", lambda connection: stories.story(connection, refund.task)
    )
    assert isinstance(told, Story)
    assert told.to_dict() == await _trace(app, refund.task)


async def test_a_rule_for_an_agent_names_whom_it_ended(app: BrokerApp) -> None:
    """The tokens that lived then and that it covers; neither others nor later ones."""
    ended = claims_of(await app.token("worker", TICKETS, "tickets:read"))["jti"]
    await app.token("planner", TICKETS, "tickets:read")
    rule = (await revoke(app, agent="worker"))["id"]
    await app.token("worker", TICKETS, "tickets:read")
    found = [node for _, node in _nodes((await _trace(app, rule))["story"])]
    assert [node["entry"]["ref"] for node in found if node["entry"]["kind"] == "token.issued"] == [ended]
    assert rule in {node["entry"]["ref"] for node in found}


async def test_a_story_is_cut(app: BrokerApp, refund: Refund, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too long says so."""
    monkeypatch.setattr(stories, "MAX_ENTRIES", 3)
    answer = await _trace(app, refund.task)
    assert answer["cut"] is True
    assert story_lines(answer)[-1].startswith("There is more")


async def test_nothing_is_known(app: BrokerApp) -> None:
    """An id that the ledger does not have is not found."""
    for ref in (f"task_{uuid.uuid4().hex}", "nobody"):
        reply = await app.call("GET", f"/v1/ledger/trace/{ref}", token=await app.operator("ledger:read"))
        assert (reply.status, reply.json["code"]) == (404, "not_found")
