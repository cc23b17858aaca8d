"""Verifying finds whoever opens tasks, approves requests or settles actions by writing into the database."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.ledger.verify import Report, verify_file
from tests.support.broker_app import TICKETS, Template, make_template, running_app
from tests.support.team import REFUNDS, TEAM, TEAM_POLICY, decide, open_task


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker with a team of agents."""
    return make_template(tmp_path_factory.mktemp("team") / "broker", TEAM_POLICY, TEAM)


@pytest.fixture
async def ledger(team: Template, tmp_path: Path) -> Path:
    """The ledger of a broker in which something of each kind has happened."""
    async with running_app(team, tmp_path / "broker") as app:
        task = await open_task(app, budget={"actions": {"tickets:read": 3}})
        sub = await open_task(app, parent=task["id"], budget={"actions": {"tickets:read": 1}})
        token = await app.token("planner", TICKETS, "tickets:read", task=task["id"])
        own = await app.token("gateway", "broker", "actions:reserve")
        reserved = await app.call("POST", "/v1/actions", token=own, json={"token": token, "action": "tickets:read"})
        place = f"/v1/actions/{reserved.json['action_id']}/settle"
        await app.call("POST", place, token=own, json={"outcome": "done"})
        await app.call("POST", "/v1/actions", token=own, json={"token": token, "action": "tickets:read"})
        for decision in ("approve", "deny"):
            asked = await app.ask(app.form("planner", resource=REFUNDS, scope="refunds:create", may_act=decision))
            await decide(app, "carol", asked.json["auth_req_id"], decision)
        pending = await app.ask(app.form("planner", resource=REFUNDS, scope="refunds:create"))
        assert pending.json["code"] == "authorization_pending"
        form = app.form("planner", resource=REFUNDS, scope="refunds:create", may_act="x", break_glass="no time")
        assert (await app.ask(form)).status == 200
        closing = await app.token("planner", "broker", "tasks:close")
        await app.call("DELETE", f"/v1/tasks/{sub['id']}", token=closing)
    return tmp_path / "broker" / "ledger.db"


def tampered(path: Path, statement: str) -> Report:
    """Change the database behind the broker's back and verify it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        assert database.execute(statement).rowcount > 0
    return verify_file(path)


def statements() -> Iterator[tuple[str, str]]:
    """Yield what an attacker would write, and what is said about it."""
    yield "UPDATE approvals SET state = 'approved' WHERE state = 'pending'", "which is not what its entries come to"
    yield "UPDATE approvals SET state = 'approved' WHERE state = 'denied'", "which is not what its entries come to"
    yield "UPDATE approvals SET state = 'reviewed' WHERE state = 'unreviewed'", "not what its entries come to"
    yield "UPDATE approvals SET quorum = 9 WHERE state = 'pending'", "differs from what was recorded"
    yield "UPDATE votes SET approve = 1 WHERE approve = 0", "which is not what its entries come to"
    yield "UPDATE votes SET approver = 'dave'", "which is not what its entries come to"
    yield "UPDATE approvals SET id = 'apr_x' WHERE state = 'pending'", "no entry recorded it"
    yield "UPDATE tasks SET closed_at = NULL WHERE closed_at IS NOT NULL", "was closed, but is open"
    yield "UPDATE tasks SET closed_at = 1 WHERE closed_at IS NULL", "no entry closed it"
    yield "UPDATE tasks SET deadline = deadline + 9000", "differs from what was recorded when it was opened"
    yield "UPDATE tasks SET owner = 'stranger'", "differs from what was recorded when it was opened"
    yield "UPDATE tasks SET id = 'task_x' WHERE closed_at IS NULL", "no entry opened it"
    yield "UPDATE actions SET outcome = 'not_done'", "another outcome than was recorded"
    yield "UPDATE actions SET count = 0", "is not one that was recorded"


@pytest.mark.parametrize(("statement", "says"), list(statements()))
def test_tampering_with_work_is_named(ledger: Path, statement: str, says: str) -> None:
    """Each is found, and told in plain words; an untouched ledger has nothing to say."""
    assert verify_file(ledger).problems == ()
    report = tampered(ledger, statement)
    assert any(says in problem for problem in report.problems), report.problems
