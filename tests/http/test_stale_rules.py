"""A process that cannot know whether others have changed the rules: it says nothing of tokens, and revokes."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.ledger import SqlLedger
from broker.ledger.sharing.board import Word
from broker.ledger.sharing.file_premises import FilePremises
from tests.support.broker_app import TICKETS, BrokerApp, Template, running_app


@pytest.fixture
async def app(template: Template, tmp_path: Path) -> AsyncIterator[BrokerApp]:
    """A broker of its own."""
    async with running_app(template, tmp_path / "b") as app:
        yield app


def announce(app: BrokerApp, *, readable: bool) -> None:
    """Let somebody have announced a change that this process does not know, which it can look up or not."""
    ledger = app.services.records
    assert isinstance(ledger, SqlLedger)
    assert isinstance(ledger._premises, FilePremises)
    ledger._premises._board[Word.ANNOUNCED] = 10**9
    ledger._reader._closed = not readable


async def test_no_answer_is_given_by_rules_that_may_be_old(app: BrokerApp) -> None:
    """503 with a code of its own for whoever asks, issues or reads; revoking goes on (law 1)."""
    token, operator = await app.token("alpha"), await app.operator()
    announce(app, readable=False)
    reply = await app.ask(app.form("alpha", audience=TICKETS, scope="tickets:read"))
    assert (reply.status, reply.json["code"]) == (503, "rules_stale")
    reply = await app.call("POST", "/oauth2/introspect", token=operator, data={"token": token})
    assert (reply.status, reply.json["code"]) == (503, "rules_stale")
    reply = await app.call("GET", "/v1/blocks", token=operator)
    assert (reply.status, reply.json["code"]) == (503, "rules_stale")
    reply = await app.call(
        "POST",
        "/v1/revocations",
        token=operator,
        json={"selector": {"agent": "alpha"}, "reason": "x"},
        headers={"Idempotency-Key": str(uuid.uuid4())},
    )
    assert reply.status in {201, 202}
    assert (await app.call("DELETE", "/v1/blocks/blk_1", token=operator)).status == 503
    announce(app, readable=True)
    reply = await app.call("POST", "/oauth2/introspect", token=operator, data={"token": token})
    assert (reply.status, reply.json["active"]) == (200, False)


async def test_a_change_that_was_announced_and_never_made_keeps_nobody_waiting(app: BrokerApp) -> None:
    """Its writer died: the database is asked, and has nothing new."""
    token, operator = await app.token("alpha"), await app.operator()
    announce(app, readable=True)
    reply = await app.call("POST", "/oauth2/introspect", token=operator, data={"token": token})
    assert (reply.status, reply.json["active"]) == (200, True)
