"""A broker whose ledger is not what it was: it issues nothing, and does everything else that it can."""

from __future__ import annotations

import contextlib
import sqlite3
import time
import uuid
from pathlib import Path

import jwt
import pytest

from broker.core.identity import Agent
from tests.support.broker_app import TICKETS, BrokerApp, Template, running_app


def change(ledger: Path, sql: str) -> None:
    """Change the database behind the broker's back."""
    with contextlib.closing(sqlite3.connect(ledger)) as database, database:
        database.execute(sql)


async def test_what_is_found_while_it_runs(template: Template, tmp_path: Path) -> None:
    """Tokens are refused from then on; those that are alive are told of, and revoked."""
    async with running_app(template, tmp_path / "b", metrics=True) as app:
        token, operator = await app.token("alpha"), await app.operator()
        change(app.file, "UPDATE entries SET agent = 'eve' WHERE seq = 1")
        await app.broker.self_check.go_through()
        reply = await app.ask(app.form("alpha", audience=TICKETS, scope="tickets:read"))
        assert (reply.status, reply.json["code"], reply.json["error"]) == (503, "ledger_corrupt", "server_error")
        assert reply.json["error_description"] == (
            "the ledger is damaged; nothing is issued until an operator has seen to it"
        )
        assert await introspected(app, token)
        revoked = await app.call(
            "POST",
            "/v1/revocations",
            token=operator,
            json={"selector": {"agent": "alpha"}, "reason": "x"},
            headers={"Idempotency-Key": str(uuid.uuid4())},
        )
        assert (revoked.status, revoked.json["durable"]) == (202, False)
        assert not await introspected(app, token)
        snapshot = await app.call("GET", "/v1/revocations/snapshot", token=operator)
        rules = jwt.decode(snapshot.body.decode(), options={"verify_signature": False})["rules"]
        assert {"id": revoked.json["id"], "n": None, "selector": {"agent": "alpha"}, "ends": None} in rules
        assert "broker_ledger_sound 0.0" in app.services.metrics.text().decode()
        [told] = app.events.of("ledger.unsound")
        assert told["problems"] == ["entry 1: the columns agent differ from the entry itself"]


async def introspected(app: BrokerApp, token: str) -> bool:
    """Whether a token is active, as its audience hears it."""
    gateway = Agent(id="gateway", issuer="registered", subject="gateway")
    return bool(app.services.introspection.introspect(token, gateway, frozenset())["active"])


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM head",
        "UPDATE head SET frontier = x'00'",
        "DELETE FROM entries",
        "DROP TABLE entries",
        "DROP TABLE approvals",
        "DROP TABLE leases",
        "DROP TABLE checkpoints",
        "DROP TABLE accepted_heads",
        "UPDATE entries SET body = 7",
    ],
)
async def test_a_start_on_what_is_left(template: Template, tmp_path: Path, sql: str) -> None:
    """As long as rules and keys can be read, verifiers get them."""
    folder = tmp_path / "before"
    async with running_app(template, folder):
        pass
    change(folder / "ledger.db", sql)
    async with running_app(Template(folder, template.keys), tmp_path / "after") as app:
        ready = await app.call("GET", "/readyz")
        assert (ready.status, ready.json["checks"]["integrity"]) == (503, "failing")
        assert (await app.call("GET", "/oauth2/jwks.json")).json["keys"]
        assert app.services.snapshot(time.time())
        assert (await app.ask(app.form("alpha", audience=TICKETS, scope="tickets:read"))).status == 503
        [told] = app.events.of("ledger.unsound")
        assert told["fault"] == "damaged"
        for job in app.broker.jobs:
            if job.name.startswith("ledger"):
                await job.run()
