"""The reference of ledger entries says what is written: every kind and member, what is always there, or personal."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from broker.auditing import Auditing
from broker.core.entry import Entry, Kind, decode
from broker.core.lease import Lease, LeaseStatus
from broker.core.lease_entries import ended_entry, missed_entry, prefix_entry, retried_entry, settled_entry
from broker.core.personal import ERASED, MEMBER, PERSONAL, SALT_SIZE, SHORTENED, merged, read_personal
from broker.core.propagation import Present, Verifier, propagation_of
from broker.core.rules import Rule
from broker.core.selector import Selector
from broker.core.tally import Tally
from broker.ledger.store import SqlLedger
from broker.propagation.records import propagated_entry
from tests.support.broker_app import HERE, TICKETS, BrokerApp, Template, make_template, running_app
from tests.support.fakes import NOW, FakeClock, RecordingEvents
from tests.support.leases import BACKENDS, LEASING, leasing_token, reaping, take
from tests.support.leases import POLICY as LEASES_POLICY
from tests.support.team import REFUNDS, TEAM, TEAM_POLICY, decide, delegated, exchange, open_task

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reference" / "ledger-entries.md").read_text()
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "entries.json").read_text())
TYPES: Mapping[str, tuple[type, ...]] = {
    "text": (str,),
    "number": (int,),
    "true": (bool,),
    "true or false": (bool,),
    "list": (list,),
    "object": (dict,),
}
SINCE = {"1", "2", "3", "5", "6", "9"}


@dataclass(frozen=True)
class Row:
    """What the page says of a member."""

    name: str
    type: str
    when: str
    since: str
    personal: str


def part(heading: str) -> str:
    """Return what stands under a heading."""
    found = re.search(rf"^### {re.escape(heading)}$(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return found[1]


def rows(text: str, *, optional: bool = False) -> list[Row]:
    """Return the rows of the table in a part; ``optional`` says that none of them must be there."""
    found = re.findall(r"^\| `([a-z_]+)` \| (.*?) \| (.*?) \| (.*?) \| (.*?) \| .+ \|$", text, re.MULTILINE)
    return [Row(name, kind, "" if optional else when, since, own) for name, kind, when, since, own in found]


def described(kind: str) -> dict[str, Row]:
    """Return all members that the page gives a kind, those of groups included."""
    text = part(f"`{kind}`")
    found = rows(part("Every entry")) + rows(text)
    for group, condition in re.findall(r"\[([A-Z][a-z]+)\]\(#[a-z]+\)( if somebody asked for it)?", text):
        found += rows(part(group), optional=bool(condition))
    assert len({row.name for row in found}) == len(found), "each member once"
    return {row.name: row for row in found}


KINDS = {kind.value: described(kind.value) for kind in Kind}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_described(kind: str) -> None:
    """Each with its members, of types that there are, and as personal as the code has it."""
    for row in KINDS[kind].values():
        assert row.type in TYPES, row
        assert row.since in SINCE, row
        own = row.name in PERSONAL and not (row.name == "reason" and kind.endswith((".refused", ".failed")))
        assert row.personal == ("yes" if own else "partly" if row.name in SHORTENED else "no"), row


def test_no_kind_is_made_up() -> None:
    """What is described exists."""
    assert set(re.findall(r"^### `(.*)`$", PAGE, re.MULTILINE)) == KINDS.keys()


def differences(leaf: Mapping[str, Any], members: Mapping[str, Any]) -> list[str]:
    """Return how an entry differs from what the page says of it."""
    known = KINDS[members["kind"]]
    everything = {**members, **({MEMBER: leaf[MEMBER]} if MEMBER in leaf else {})}
    strange = [f"{name} is not on the page" for name in everything if name not in known]
    always = [row.name for row in known.values() if row.when == "always"]
    missing = [f"{name} is missing" for name in always if name not in everything]
    wrong = [
        f"{name} is a {type(value).__name__}"
        for name, value in everything.items()
        if name in known and not isinstance(value, TYPES[known[name].type])
    ]
    in_leaf = [f"{name} is in the leaf" for name in leaf if name in known and known[name].personal == "yes"]
    if members.get("on_behalf_of") == members.get("agent"):
        in_leaf = [told for told in in_leaf if told != "on_behalf_of is in the leaf"]
    return [f"{members['kind']}: {told}" for told in (*strange, *missing, *wrong, *in_leaf)]


async def recorded(app: BrokerApp) -> set[str]:
    """Compare every entry of a broker's ledger with the page; return the kinds that there were."""
    records = await app.services.records.records(limit=1000)
    found = [told for record in records for told in differences(decode(record.body), record.members)]
    assert found == []
    assert not any(ERASED in record.members for record in records)
    return {record.members["kind"] for record in records}


@pytest.fixture(scope="module")
def leasing(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker with secrets to lease."""
    made = make_template(tmp_path_factory.mktemp("leases") / "broker", LEASES_POLICY, LEASING)
    with (made.folder / "broker.toml").open("a") as file:
        file.write(BACKENDS)
    return made


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker with a team of agents, whose operator may do most things."""
    policy = TEAM_POLICY.replace('"policy:write", "agents:write"', '"policy:write", "agents:write", "keys:write"')
    return make_template(tmp_path_factory.mktemp("team") / "broker", policy, TEAM)


async def test_entries_of_tokens_tasks_people_and_rules(team: Template, tmp_path: Path) -> None:
    """Everything that a team does, refusals included, stands in its ledger as the page says."""
    async with running_app(team, tmp_path / "broker") as app:
        await work_of_a_team(app)
        await work_of_operators(app)
        await app.services.erasure.keep_up()
        kinds = await recorded(app)
    assert {kind for kind in KINDS if kind.startswith(("token.", "task.", "approval.", "action.", "agent."))} <= kinds
    assert {"rule.added", "block.lifted", "policy.loaded", "keys.rotated", "enrollment.created"} <= kinds


async def work_of_a_team(app: BrokerApp) -> None:
    """Tasks in tasks, tokens that come of tokens, people who decide, and actions; some of it is refused."""
    task = await open_task(app, labels={"customer": "4711"}, budget={"actions": {"tickets:read": 1}})
    details = json.dumps([{"type": "ticket", "ids": ["T-1"]}])
    await app.token("planner", TICKETS, task=task["id"], authorization_details=details)
    token = await app.token("planner", TICKETS, task=task["id"])
    child = await delegated(app, "worker", token, resource=TICKETS, scope="tickets:read")
    await delegated(app, "helper", child, resource=TICKETS, scope="tickets:read")
    await exchange(app, "stranger", token, resource=TICKETS, scope="tickets:read")
    await app.ask(app.form("planner", resource=TICKETS, scope="no:such"))
    own = await app.token("planner", "broker", "tasks:open tasks:close")
    await app.call("POST", f"/v1/tasks/{task['id']}/heartbeat", token=own)
    gateway = await app.token("gateway", "broker", "actions:reserve")
    for _ in range(2):
        wish = {"token": child, "action": "tickets:read", "target": "T-1"}
        reply = await app.call("POST", "/v1/actions", token=gateway, json=wish)
        if reply.status == 201:
            path = f"/v1/actions/{reply.json['action_id']}/settle"
            await app.call("POST", path, token=gateway, json={"outcome": "done", "result": "200"})
    refund = {"resource": REFUNDS, "scope": "refunds:create"}
    request = (await app.ask(app.form("planner", **refund))).json["auth_req_id"]
    await decide(app, "carol", request)
    await app.ask(app.form("planner", **refund, auth_req_id=request))
    await app.ask(app.form("planner", **refund, break_glass="the shop is down"))
    taken = (await app.entries("token.issued"))[-1]["approval"]
    carol = await app.token("carol", "broker", "approvals:decide")
    await app.call("POST", f"/v1/approvals/{taken}", token=carol, json={"decision": "review", "reason": "seen"})
    empty = await open_task(app)
    await app.call("DELETE", f"/v1/tasks/{empty['id']}", token=own, json={"reason": "not needed"})


async def work_of_operators(app: BrokerApp) -> None:
    """Rules, blocks, keys, policies, agents."""
    token = await app.operator("revocations:write", "agents:write", "policy:write", "keys:write")
    order = {"selector": {"agent": "stranger"}, "reason": "injected", "incident": "INC-1", "block": {"for": "1h"}}
    headers = {"Idempotency-Key": "0b0f9f6e-31b5-4d0c-b8a6-6d9a4a3f8d11"}
    made = await app.call("POST", "/v1/revocations", token=token, json=order, headers=headers)
    block = made.json["block"]["id"]
    await app.call("DELETE", f"/v1/blocks/{block}", token=token, json={"reason": "it was a drill"})
    await app.call("POST", "/v1/enrollments", token=token, json={"name": "newcomer"})
    await app.call("DELETE", "/v1/agents/dave", token=token)
    await app.call("POST", "/v1/keys/rotate", token=token, json={})
    await app.call("POST", "/v1/policy/reload", token=token, json={})


async def test_entries_of_leases(leasing: Template, tmp_path: Path) -> None:
    """From the intent to the backend's word, on somebody's behalf, refused, and given up."""
    async with running_app(leasing, tmp_path / "broker") as app, reaping(app):
        token = await leasing_token(app)
        lease = (await take(app, token, ttl="1m")).json["lease_id"]
        path = f"/v1/leases/{lease}"
        await app.call("POST", f"{path}/renew", token=token, json={"ttl": "5m"})
        await app.call("DELETE", f"{path}?wait=5", token=token)
        handed = await delegated(app, "quiet", token, resource=f"{app.issuer}/v1", scope="leases:take")
        await take(app, handed)
        await take(app, handed, "payroll")
        operator = await app.operator("revocations:write")
        await app.call("POST", "/v1/leases/confirm", token=operator, json={"reason": "looked at it"})
        kinds = await recorded(app)
    expected = {"lease.intended", "lease.sealed", "lease.renewed", "lease.ended", "lease.settled", "lease.refused"}
    assert {*expected, "leases.confirmed"} <= kinds


LEASE = Lease(
    id="lse_1",
    secret="db",
    backend="local",
    tier="read",
    agent="alpha",
    issuer="registered",
    role="workers",
    on_behalf_of="alpha",
    task="task_1",
    facts=frozenset(),
    epoch=0,
    taken_at=NOW,
    ends_by=int(NOW) + 60,
    allowed_by="roles.workers.allow[0]",
    token="tok_1",
)

RULE = Rule("rule_1", Selector(agent="alpha"), 7, NOW, "operator", "injected")
LATE = Verifier(agent="gateway", name="late", epoch=6, max_age=600.0)
SILENT = Verifier(agent="gateway", name="silent", epoch=6, max_age=1.0)


@pytest.mark.parametrize(
    "made",
    [
        missed_entry(LEASE, "no answer", 3, NOW + 5, NOW),
        missed_entry(LEASE, "no answer", 10, None, NOW),
        settled_entry(LEASE, LeaseStatus.EXPIRES_ONLY, NOW, note="rotation requested", good_until=int(NOW) + 9),
        settled_entry(LEASE, LeaseStatus.ABANDONED, NOW, note="ended by hand", by="operator", origin=HERE.members()),
        retried_entry(LEASE, "operator", NOW, HERE.members()),
        ended_entry(LEASE, "revoked", NOW, rule=7, handle={"accessor": "x"}, reason="no answer"),
        prefix_entry("vault/main", "database/creds", "operator", "injected", NOW, HERE.members()),
        propagated_entry(RULE, replace(propagation_of(7, 20.0, Present([], [LATE, SILENT])), slowest=0.0), NOW),
    ],
    ids=lambda made: made.columns.kind,
)
def test_entries_that_are_hard_to_come_by(made: Entry) -> None:
    """What the reaper and operators record when a backend does not do as it is told, and of who has applied a rule."""
    body, stored = made.committed(bytes(SALT_SIZE))
    leaf = decode(body)
    beside = None if stored is None else read_personal(stored, leaf[MEMBER]).members
    assert differences(leaf, merged(leaf, beside)) == []


async def test_entries_of_the_broker_itself(leasing: Template, tmp_path: Path) -> None:
    """That it started, strangers in aggregate, and steps of its clock."""
    async with running_app(leasing, tmp_path / "broker") as app:
        strangers, clock = Tally(), FakeClock()
        ledger = app.services.records
        assert isinstance(ledger, SqlLedger)
        auditing = Auditing(ledger=ledger, clock=clock, events=RecordingEvents(), strangers=strangers)
        await auditing.started("0.1.0")
        strangers.add("assertion_invalid")
        await auditing.record_strangers()
        await auditing.watch_clock(0)
        clock.time += 3600
        await auditing.watch_clock(1)
        assert {"broker.started", "strangers.refused", "clock.stepped"} <= await recorded(app)


@pytest.mark.parametrize("vector", VECTORS["committed"], ids=lambda vector: vector["name"])
def test_vectors_are_as_described(vector: Mapping[str, Any]) -> None:
    """Apart from what a shortened example leaves out, the checked-in entries fit the page."""
    members = {"v": 1, "kind": vector["kind"], "at": int(vector["at"] * 1000), **vector["members"]}
    found = differences(decode(bytes.fromhex(vector["body"])), members)
    assert [told for told in found if not told.endswith("is missing")] == []


def test_where_a_request_came_from() -> None:
    """The origin of a request on the page is what a caller says of itself."""
    assert HERE.members().keys() | {"caller_token", "caller_key"} == {row.name for row in rows(part("Origin"))}
