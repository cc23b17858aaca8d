"""Erasures over HTTP: what is personal is gone from the files and from every answer, and the ledger still proves it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.core.entry import encode
from broker.core.erasing import Forgetting, masked
from broker.core.errors import BrokerError, Code
from broker.erasure import Erasure, ErasureOrder
from broker.ledger.store import SqlLedger
from broker.ledger.verify import verify_file
from tests.support.broker_app import HERE, TICKETS, BrokerApp, Reply, Template, make_template, running_app
from tests.support.fakes import CountingIds, FakeClock
from tests.support.team import REFUNDS, TEAM, TEAM_POLICY, open_task

PATH = "/v1/ledger/erasures"
CANARY = "kanarienvogel"
SCRIPT = Path(__file__).parents[2] / "docs" / "verify_ledger.py"
POLICY = TEAM_POLICY.replace('"operator:read", "revocations:write"', '"operator:read", "ledger:erase", "ledger:read"')
DAY = 24 * 3600


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker with a team of agents, whose operator may erase."""
    return make_template(tmp_path_factory.mktemp("team") / "broker", POLICY, TEAM)


@pytest.fixture
async def app(team: Template, tmp_path: Path) -> AsyncIterator[BrokerApp]:
    """Run it."""
    async with running_app(team, tmp_path / "broker") as running:
        yield running


def ledger_of(app: BrokerApp) -> SqlLedger:
    """Return the ledger that the broker writes."""
    ledger = app.services.records
    assert isinstance(ledger, SqlLedger)
    return ledger


def later(app: BrokerApp, seconds: float, keep_days: int | None = None) -> Erasure:
    """Return the use case as it is when time has passed."""
    ledger = ledger_of(app)
    clock = FakeClock(time.time() + seconds)
    return Erasure(ledger=ledger, erasable=ledger, clock=clock, ids=CountingIds(), keep_days=keep_days)


def order(**fields: Any) -> ErasureOrder:  # noqa: ANN401 - of any type
    """Return an order to erase."""
    return ErasureOrder(forgetting=Forgetting(**fields), reason="asked for on paper", by="operator")


async def erase(app: BrokerApp, **body: object) -> Reply:
    """Order an erasure over HTTP."""
    token = await app.operator("ledger:erase")
    return await app.call("POST", PATH, token=token, json={"reason": "asked for on paper", **body})


def held(app: BrokerApp) -> list[str]:
    """Return which files beside the ledger hold the canary."""
    folder = app.file.parent
    return [file.name for file in folder.glob("ledger.db*") if CANARY.encode() in file.read_bytes()]


async def work_with_people(app: BrokerApp) -> dict[str, Any]:
    """Have a task with a purpose, labels, an approval with reasons, and an action with a target and a result."""
    task = await open_task(app, purpose=f"for {CANARY}", labels={"customer": CANARY})
    asked = await app.ask(app.form("planner", resource=REFUNDS, scope="refunds:create", task=task["id"]))
    approval = asked.json["auth_req_id"]
    carol = await app.token("carol", "broker", "approvals:decide")
    body = {"decision": "approve", "reason": f"{CANARY} called"}
    assert (await app.call("POST", f"/v1/approvals/{approval}", token=carol, json=body)).status == 200
    form = app.form("planner", resource=REFUNDS, scope="refunds:create", task=task["id"], auth_req_id=approval)
    token = (await app.ask(form)).json["access_token"]
    gateway = await app.token("gateway", "broker", "actions:reserve")
    wish = {"token": token, "action": "refunds:create", "target": f"account of {CANARY}"}
    action = await app.call("POST", "/v1/actions", token=gateway, json=wish)
    assert action.status == 201, action.body
    done = {"outcome": "done", "result": f"paid to {CANARY}"}
    path = f"/v1/actions/{action.json['action_id']}/settle"
    assert (await app.call("POST", path, token=gateway, json=done)).status == 200
    return {"task": task["id"], "approval": approval, "action": action.json["action_id"]}


async def close(app: BrokerApp, task: str) -> None:
    """Close a task."""
    owner = await app.token("planner", "broker", "tasks:close")
    reply = await app.call("DELETE", f"/v1/tasks/{task}", token=owner, json={"reason": f"{CANARY} is content"})
    assert reply.status == 200, reply.body


async def test_all_that_is_personal_of_a_task_is_forgotten(app: BrokerApp) -> None:
    """Purposes, labels, reasons, targets, results: from the entries, from the state, from every file."""
    made = await work_with_people(app)
    refused = await erase(app, task=made["task"])
    assert (refused.status, refused.json["code"]) == (409, "conflict"), "it is still open"
    await close(app, made["task"])
    preview = await erase(app, task=made["task"], preview=True)
    assert preview.json["erasure"] is None
    assert preview.json["in_use"] > 0
    erasure = later(app, 3600)
    before = [(record.seq, record.body) for record in await app.services.records.records(limit=1000)]
    counted = await erasure.preview(order(task=made["task"]))
    outcome = await erasure.erase(order(task=made["task"]), HERE)
    assert (outcome.entries, outcome.in_use, outcome.more) == (counted.entries, 0, False)
    assert outcome.entries >= 6
    assert outcome.forgotten
    assert held(app) == []
    after = [(record.seq, record.body) for record in await app.services.records.records(limit=1000)]
    assert after[: len(before)] == before, "no byte that was hashed is another"
    assert (await erasure.erase(order(task=made["task"]), HERE)).entries == 0

    token = await app.operator("operator:read", "ledger:read", "approvals:read")
    shown = (await app.call("GET", f"/v1/approvals/{made['approval']}", token=token)).json
    assert (shown["state"], shown["purpose"], shown["votes"][0]["reason"]) == ("used", None, "")
    trace = await app.call("GET", f"/v1/ledger/trace/{made['task']}", token=token)
    assert trace.status == 200
    assert trace.json["story"][0]["entry"]["personal_erased"] is True
    path = app.file
    report = await asyncio.to_thread(verify_file, path)
    assert report.problems == ()
    command = [sys.executable, str(SCRIPT), str(path)]
    judged = await asyncio.to_thread(lambda: subprocess.run(command, capture_output=True, text=True, check=False))
    assert judged.returncode == 0, judged.stdout


async def test_what_waits_for_a_review_keeps_its_reason(app: BrokerApp) -> None:
    """Whoever went ahead without asking cannot have that forgotten before a person has looked at it."""
    refund = {"resource": REFUNDS, "scope": "refunds:create", "break_glass": f"{CANARY} waits"}
    assert (await app.ask(app.form("planner", **refund))).status == 200
    issued = (await app.entries("token.issued"))[-1]
    token = order(ref=issued["ref"])
    erasure = later(app, 3600)
    with pytest.raises(BrokerError) as refused:
        await erasure.erase(token, HERE)
    assert refused.value.code is Code.CONFLICT
    carol = await app.token("carol", "broker", "approvals:decide")
    body = {"decision": "review", "reason": "it was an emergency"}
    reviewed = await app.call("POST", f"/v1/approvals/{issued['approval']}", token=carol, json=body)
    assert reviewed.status == 200, reviewed.body
    assert (await erasure.erase(token, HERE)).entries == 1
    assert held(app) == []
    (entry,) = [told for told in await app.entries("token.issued") if told["ref"] == issued["ref"]]
    assert entry["break_glass"] == "", "that it was one is still told"
    assert (await asyncio.to_thread(verify_file, app.file)).problems == ()


async def test_an_erasure_is_recorded(app: BrokerApp) -> None:
    """Who, why, which entries; a subject is not told again, but whoever has the name can tell that it was meant."""
    await app.ask(app.form("planner", audience=TICKETS, scope="no:such"))
    reply = await erase(app, agent="planner")
    assert (reply.status, reply.json["entries"], reply.json["in_use"]) == (200, 2, 0), reply.body
    assert reply.json["forgotten"] is True
    (told,) = await app.entries("personal.erased")
    meant = [record for record in await app.services.records.records() if record.members.get("agent") == "planner"]
    assert told["ref"] == reply.json["erasure"]
    assert (told["by"], told["reason"], told["selector"]) == ("operator", "asked for on paper", {"agent": "planner"})
    assert (told["entries"], told["places"]) == (2, [[record.seq, record.seq] for record in meant])
    assert [record.members["personal_erased"] for record in meant] == [True, True], "registered, and refused"
    erasure = later(app, 0)
    ledger = ledger_of(app)
    erased = await erasure.erase(order(subject="idp/ann"), HERE)
    assert erased.entries == 0
    assert len(await app.entries("personal.erased")) == 1, "what erases nothing is not recorded"
    assert masked("era_1", "idp/ann").startswith("sha256:")
    assert await ledger.forget_erased()


async def test_what_is_personal_can_be_checked_by_whoever_reads_it(app: BrokerApp) -> None:
    """The entry byte for byte, and beside it the salt and the members that its commitment is of."""
    await app.ask(app.form("planner", audience=TICKETS, scope="no:such"))
    token = await app.operator("ledger:read")
    found = (await app.call("GET", "/v1/ledger/entries?kind=token.refused", token=token)).json["entries"][-1]
    beside = found["personal"]
    salt = base64.urlsafe_b64decode(beside["salt"] + "==")
    digest = hashlib.sha256(salt + encode(beside["members"])).digest()
    assert base64.urlsafe_b64encode(digest).decode().rstrip("=") == found["entry"]["personal"]
    assert beside["members"]["address"] == "127.0.0.1"
    assert "address" not in found["entry"]
    await erase(app, agent="planner")
    again = (await app.call("GET", f"/v1/ledger/entries/{found['seq']}", token=token)).json
    assert (again["personal"], again["entry"]) == (None, found["entry"])
    page = (await app.call("GET", "/v1/ledger/entries", token=token)).json["entries"]
    assert all(("personal" in each) == ("personal" in each["entry"]) for each in page)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "malformed_request"),
        ({"agent": ""}, 400, "malformed_request"),
        ({"agent": "a\nb"}, 400, "malformed_request"),
        ({"agent": "a" * 513}, 400, "malformed_request"),
        ({"before": "yesterday"}, 400, "malformed_request"),
        ({"everything": True}, 400, "unknown_field"),
        ({"agent": "planner", "reason": ""}, 400, "malformed_request"),
        ({"agent": "planner", "reason": "two\nlines"}, 400, "malformed_request"),
        ({"agent": "planner", "after": "x"}, 400, "malformed_request"),
        ({"ref": "nothing-of-this-name"}, 200, None),
        ({"agent": "planner", "after": 2**62}, 400, "malformed_request"),
        ({"agent": "planner", "after": -5}, 400, "malformed_request"),
    ],
    ids=str,
)
async def test_bad_orders(app: BrokerApp, body: dict[str, object], status: int, code: str | None) -> None:
    """Refused before anything is looked for; what means nothing that there is, erases nothing."""
    reply = await erase(app, **body)
    assert (reply.status, reply.json.get("code")) == (status, code), reply.body
    assert await app.entries("personal.erased") == []


async def test_it_needs_a_scope_of_its_own(app: BrokerApp) -> None:
    """Whoever may read the ledger may not erase what is in it."""
    token = await app.operator("ledger:read", "operator:read")
    reply = await app.call("POST", PATH, token=token, json={"agent": "planner", "reason": "because"})
    assert (reply.status, reply.json["code"]) == (403, "insufficient_scope")


async def test_what_is_old_is_erased_by_itself(app: BrokerApp) -> None:
    """After so many days, piece by piece; before that, and without the setting, nothing is."""
    made = await work_with_people(app)
    await close(app, made["task"])
    await later(app, 400 * DAY).keep_up()
    await later(app, 29 * DAY, keep_days=30).keep_up()
    assert await app.entries("personal.erased") == []
    assert held(app) != []
    erasure = later(app, 31 * DAY, keep_days=30)
    await erasure.keep_up()
    assert held(app) == []
    told = await app.entries("personal.erased")
    assert [(each["by"], each["reason"]) for each in told] == [("broker", "personal data is kept for 30 days")]
    await erasure.keep_up()
    assert len(await app.entries("personal.erased")) == 1
    assert (await asyncio.to_thread(verify_file, app.file)).problems == ()


async def test_many_entries_are_erased_in_bounded_changes(app: BrokerApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change erases few entries, one call makes few changes and says where to go on; nothing is left out."""
    monkeypatch.setattr("broker.erasure.PIECE", 2)
    monkeypatch.setattr("broker.erasure.PIECES", 2)
    for _ in range(8):
        await app.ask(app.form("planner", audience=TICKETS, scope="no:such"))
    body: dict[str, object] = {"agent": "planner"}
    counts = []
    while True:
        reply = await erase(app, **body)
        counts.append(reply.json["entries"])
        if reply.json["next"] is None:
            break
        body["after"] = reply.json["next"]
    assert counts == [4, 4, 1]
    assert [each["entries"] for each in await app.entries("personal.erased")] == [2, 2, 2, 2, 1]
    assert (await asyncio.to_thread(verify_file, app.file)).problems == ()


async def test_a_ledger_that_cannot_be_written_erases_nothing(app: BrokerApp) -> None:
    """What is not recorded did not happen: the values are there, and the call fails."""
    await app.ask(app.form("planner", audience=TICKETS, scope="no:such"))
    ledger = ledger_of(app)
    erasure = later(app, 0)
    await ledger.close()
    with pytest.raises(BrokerError) as failure:
        await erasure.erase(order(agent="planner"), HERE)
    assert failure.value.code in {Code.STOPPING, Code.LEDGER_UNAVAILABLE}
    assert (await asyncio.to_thread(verify_file, app.file)).problems == ()
    assert json.dumps(held(app)) == "[]"
