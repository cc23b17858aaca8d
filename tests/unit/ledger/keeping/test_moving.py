"""A ledger that was moved into PostgreSQL answers every question as the file did."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from broker.clock import SystemClock
from broker.core.entry import Kind
from broker.core.erasing import Forgetting
from broker.core.inquiry import EntryFilter
from broker.core.lease import LeaseStatus
from broker.core.selector import Selector
from broker.ledger import tree
from broker.ledger.keeping import erasable
from broker.ledger.keeping.moving import MOVED, move
from broker.ledger.reading import hits, inquiries, lease_records, records, stories, task_records
from broker.ledger.reading.offline import read_file
from broker.ledger.reading.usage_file import count_usage
from broker.ports import LeaseFilter, Server
from tests.support.broker_app import TICKETS, Template, make_template, running_app
from tests.support.postgres import Postgres
from tests.support.team import REFUNDS, TEAM, TEAM_POLICY, decide, open_task

Both = tuple[Path, Server]
Question = Callable[[Connection], object]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Both:
    """A ledger in which much has happened, as a file and where it was moved to."""
    folder = tmp_path_factory.mktemp("moving")
    asyncio.run(_happen(make_template(folder / "template", TEAM_POLICY, TEAM), folder))
    file = folder / "broker" / "ledger.db"
    server = postgres.ledger(folder / "ledger")
    kept = Path(shutil.copy(file, folder / "kept.db"))
    assert move(file, server, SystemClock()).sound
    assert file.with_name(file.name + MOVED).exists()
    return kept, server


async def _happen(team: Template, folder: Path) -> None:
    async with running_app(team, folder / "broker") as app:
        task = await open_task(app, budget={"actions": {"tickets:read": 3}, "tokens": 5})
        sub = await open_task(app, parent=task["id"], budget={"actions": {"tickets:read": 1}, "tokens": 2})
        token = await app.token("planner", TICKETS, "tickets:read", task=task["id"])
        own = await app.token("gateway", "broker", "actions:reserve")
        reserved = await app.call("POST", "/v1/actions", token=own, json={"token": token, "action": "tickets:read"})
        place = f"/v1/actions/{reserved.json['action_id']}/settle"
        await app.call("POST", place, token=own, json={"outcome": "done"})
        for decision in ("approve", "deny"):
            asked = await app.ask(app.form("planner", resource=REFUNDS, scope="refunds:create", may_act=decision))
            await decide(app, "carol", asked.json["auth_req_id"], decision)
        closing = await app.token("planner", "broker", "tasks:close")
        await app.call("DELETE", f"/v1/tasks/{sub['id']}", token=closing)


def refs(connection: Connection) -> list[str]:
    """Return everything that entries are about."""
    return [str(each.members["ref"]) for each in records.records(connection, -1, 1000) if each.members.get("ref")]


def of_each(question: Callable[[Connection, str], object]) -> Question:
    """Return a question about everything that there is."""
    return lambda connection: [question(connection, ref) for ref in refs(connection)]


def found(wanted: EntryFilter) -> Question:
    """Return the question for entries."""
    return lambda connection: inquiries.find(connection, wanted, -1, 1000)


def covered(selector: Selector, rules_in_sql: int = hits.RULES_IN_SQL) -> Question:
    """Return the question for what a selector covers, in the statement or one by one."""

    def question(connection: Connection) -> object:
        live = records.rules(connection, None, 100)
        return hits.count(connection, selector, 1.0, None, live, rules_in_sql=rules_in_sql)

    return question


def questions() -> Iterator[tuple[str, Question]]:
    """Yield what is asked of ledgers, by name."""
    yield "records", lambda connection: records.records(connection, -1, 1000)
    yield "stories", of_each(stories.story)
    yield "by ref", of_each(records.record_of)
    yield (
        "tasks",
        lambda connection: task_records.tasks(
            connection, owner=None, below_task=None, open_at=None, before=None, limit=100
        ),
    )
    yield (
        "subtasks",
        of_each(
            lambda connection, ref: task_records.tasks(
                connection, owner=None, below_task=ref, open_at=None, before=None, limit=100
            )
        ),
    )
    yield "due tasks", lambda connection: task_records.due_tasks(connection, 4e9, 100)
    yield "approvals", lambda connection: task_records.approvals(connection, None, None, 100)
    yield "actions", lambda connection: task_records.actions(connection, None, None, None, 100)
    yield "leases", lambda connection: lease_records.leases(connection, LeaseFilter(status=LeaseStatus.LIVE))
    yield "lease counts", lambda connection: (lease_records.counts(connection), lease_records.outcomes(connection, 1))
    yield "tree", lambda connection: (tree.inclusion(connection, 1, 5), tree.consistency(connection, 3, 7))
    yield "hits of all", covered(Selector(everything=True))
    for selector in (Selector(agent="planner"), Selector(scope="tickets:read"), Selector(role="planners")):
        (fact,) = selector.facts()
        yield f"hits of {fact}", covered(selector)
        yield f"hits of {fact} one by one", covered(selector, 0)
    yield "inquiry by agent", found(EntryFilter(agent="planner"))
    yield "inquiry by kind", found(EntryFilter(kinds=(Kind.TOKEN_ISSUED.value,), since=1.5))
    yield "inquiry by incident", found(EntryFilter(until=4e9, incident="none"))
    yield "inquiries by task", of_each(lambda connection, ref: found(EntryFilter(task=ref))(connection))
    yield "inquiries by token", of_each(lambda connection, ref: found(EntryFilter(token=ref))(connection))
    for forgetting in (Forgetting(agent="planner"), Forgetting(subject="nobody"), Forgetting(before=4e9)):
        yield (
            f"erasable {forgetting}",
            lambda connection, meant=forgetting: erasable.forgettable(  # type: ignore[misc]
                connection, meant, -1, 100, 4e9
            ),
        )


@pytest.mark.parametrize(("name", "question"), [pytest.param(*each, id=each[0]) for each in questions()])
def test_the_answer_is_the_same(both: Both, name: str, question: Question) -> None:
    """Which database it is makes no difference to whoever asks."""
    file, server = both
    before = read_file(file, question)
    assert read_file(server, question) == before, name


def test_what_was_used_is_the_same(both: Both) -> None:
    """Counting in SQL comes to the same sums, peaks and ends."""
    file, server = both
    before, after = count_usage(file, 0.0), count_usage(server, 0.0)
    assert sorted(map(repr, before.scopes)) == sorted(map(repr, after.scopes))
    assert sorted(map(repr, before.agents)) == sorted(map(repr, after.agents))
    assert (before.roles, before.asked, before.actions) == (after.roles, after.asked, after.actions)
    assert (before.ceilings, before.delegations, before.loads) == (after.ceilings, after.delegations, after.loads)
    assert before.scopes
    assert before.asked
    assert before.actions
