"""Token Status Lists over HTTP, read by a reader that knows only the standard."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest

from broker.core.status_list import SIZE
from broker.ledger import SqlLedger
from tests.http.test_stale_rules import announce
from tests.support.broker_app import POLICY, BrokerApp, Reply, Template, make_template, running_app
from tests.support.status_list_reader import Unusable, fetch, status_of
from tests.support.team import TEAM, TEAM_POLICY, delegated

_SERVED = "    served_by: [{agent: gateway}]\n"
LISTED = POLICY.replace(_SERVED, f"{_SERVED}    status_list: true\n")
INVALID = 1
VALID = 0


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker whose tickets have status lists."""
    return make_template(tmp_path_factory.mktemp("listed") / "broker", LISTED)


@pytest.fixture
async def app(listed: Template, tmp_path: Path) -> AsyncIterator[BrokerApp]:
    """Run it."""
    async with running_app(listed, tmp_path / "broker") as running:
        yield running


def claims(token: str) -> dict[str, Any]:
    """Return what a token says."""
    return jwt.decode(token, options={"verify_signature": False})


def place(token: str) -> Mapping[str, Any]:
    """Return where the status of a token is told."""
    return dict(claims(token)["status"]["status_list"])


async def status(app: BrokerApp, token: str) -> int:
    """Read the status of a token."""
    return await status_of(app.http, app.issuer, token)


async def revoke(app: BrokerApp, **selector: str | bool) -> Reply:
    """Make a rule."""
    return await app.call(
        "POST",
        "/v1/revocations",
        token=await app.operator("revocations:write"),
        json={"selector": selector, "reason": "it was stolen"},
        headers={"Idempotency-Key": str(uuid.uuid4())},
    )


async def test_a_rule_is_in_the_list_at_once_and_nothing_else_is(app: BrokerApp) -> None:
    """Whatever it names the tokens by; other tokens stay good, new ones are good, and each has a place of its own."""
    alpha, beta = await app.token("alpha"), await app.token("beta")
    assert place(alpha)["uri"] == place(beta)["uri"]
    assert place(alpha)["idx"] != place(beta)["idx"]
    assert all(0 <= place(token)["idx"] < SIZE for token in (alpha, beta))
    assert [await status(app, token) for token in (alpha, beta)] == [VALID, VALID]
    await revoke(app, agent="alpha")
    assert [await status(app, token) for token in (alpha, beta)] == [INVALID, VALID]
    again = await app.token("alpha")
    assert [await status(app, token) for token in (alpha, beta, again)] == [INVALID, VALID, VALID]
    await revoke(app, token=claims(beta)["jti"])
    assert [await status(app, token) for token in (alpha, beta, again)] == [INVALID, INVALID, VALID]


async def test_a_rule_for_everything_ends_a_list(app: BrokerApp) -> None:
    """All of it, places that no token is known to have as well; what comes afterwards is in another list."""
    alpha = await app.token("alpha")
    await revoke(app, everything=True)
    assert await status(app, alpha) == INVALID
    again = await app.token("alpha")
    assert place(again)["uri"] != place(alpha)["uri"]
    assert [await status(app, token) for token in (alpha, again)] == [INVALID, VALID]


async def test_any_process_tells_the_same(listed: Template, tmp_path: Path) -> None:
    """A list is made of the ledger: one that is started later tells it with all that was revoked before."""
    async with running_app(listed, tmp_path / "broker") as app:
        alpha, beta = await app.token("alpha"), await app.token("beta")
        await revoke(app, agent="alpha")
        port = int(app.issuer.rpartition(":")[2])
    left = replace(listed, folder=tmp_path / "broker")
    async with running_app(left, tmp_path / "later", port=port) as later:
        assert [await status(later, token) for token in (alpha, beta)] == [INVALID, VALID]
        assert place(await later.token("beta"))["uri"] != place(beta)["uri"]


async def test_only_audiences_that_want_it(app: BrokerApp) -> None:
    """Tokens for others say nothing of a status; introspection says what a token says."""
    operator = await app.operator()
    assert "status" not in claims(operator)
    alpha = await app.token("alpha")
    reply = await app.call("POST", "/oauth2/introspect", token=operator, data={"token": alpha})
    assert reply.json["status"] == claims(alpha)["status"]


async def test_what_cannot_be_known_is_not_told(app: BrokerApp) -> None:
    """When others may have changed the rules, there is no list rather than an old one."""
    alpha = await app.token("alpha")
    assert await status(app, alpha) == VALID
    announce(app, readable=False)
    with pytest.raises(Unusable, match="503"):
        await status(app, alpha)
    announce(app, readable=True)
    assert await status(app, alpha) == VALID


async def test_the_answer_is_a_public_document(app: BrokerApp) -> None:
    """Any page may read it, everybody may keep it for a moment, and whose copy is current gets no other."""
    path = place(await app.token("alpha"))["uri"].removeprefix(app.issuer)
    first = await app.call("GET", path)
    assert (first.status, first.headers["Content-Type"]) == (200, "application/statuslist+jwt")
    assert first.headers["Access-Control-Allow-Origin"] == "*"
    assert first.headers["Cache-Control"] == "public, max-age=30"
    assert (await app.call("GET", path, headers={"If-None-Match": first.headers["ETag"]})).status == 304
    assert (await app.call("HEAD", path)).status == 200
    assert (await app.call("OPTIONS", path)).status == 204
    said = jwt.decode(first.body.decode(), options={"verify_signature": False})
    assert (said["exp"] - said["iat"], said["ttl"]) == (300, 30)


async def test_there_is_no_history(app: BrokerApp) -> None:
    """Who asks for a past time must not take the present for it."""
    path = place(await app.token("alpha"))["uri"].removeprefix(app.issuer)
    reply = await app.call("GET", path, params={"time": "1795300000"})
    assert (reply.status, reply.json["code"]) == (501, "history_not_kept")


@pytest.mark.parametrize("name", ["tok_00000000000000000000000000", "tok_", "%2e%2e", "%ff", "x" * 2000, "tok_%00"])
async def test_there_is_no_list_but_those_with_tokens(app: BrokerApp, name: str) -> None:
    """Whatever a stranger asks for."""
    assert (await app.call("GET", f"/status/lists/{name}")).status == 404


async def test_a_token_in_no_list_is_no_list(app: BrokerApp) -> None:
    """The id of a token is not that of a list."""
    operator = claims(await app.operator())["jti"]
    with pytest.raises(Unusable, match="404"):
        await fetch(app.http, f"{app.issuer}/status/lists/{operator}")


async def test_what_cannot_be_written_is_told_all_the_same(app: BrokerApp) -> None:
    """A rule that is in force in memory alone is in the list (law 1)."""
    alpha, beta, operator = await app.token("alpha"), await app.token("beta"), await app.operator()
    assert await status(app, alpha) == VALID
    ledger = app.services.records
    assert isinstance(ledger, SqlLedger)
    ledger._group._closed = True
    reply = await app.call(
        "POST",
        "/v1/revocations",
        token=operator,
        json={"selector": {"agent": "alpha"}, "reason": "it was stolen"},
        headers={"Idempotency-Key": str(uuid.uuid4())},
    )
    assert reply.status == 202
    assert [await status(app, token) for token in (alpha, beta)] == [INVALID, VALID]
    ledger._group._closed = False


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker with a team whose tickets have status lists."""
    policy = TEAM_POLICY.replace(_SERVED, f"{_SERVED}    status_list: true\n", 1)
    return make_template(tmp_path_factory.mktemp("team") / "broker", policy, TEAM)


async def test_who_is_handed_a_token_has_a_place_of_its_own(team: Template, tmp_path: Path) -> None:
    """A child is dead on its own, and with what it came of."""
    async with running_app(team, tmp_path / "broker") as app:
        parent = await app.token("planner")
        first, second = [await delegated(app, "worker", parent, scope="tickets:read") for _ in range(2)]
        assert len({place(token)["idx"] for token in (parent, first, second)}) == 3
        await revoke(app, token=claims(first)["jti"])
        assert [await status(app, token) for token in (parent, first, second)] == [VALID, INVALID, VALID]
        await revoke(app, token=claims(parent)["jti"])
        assert [await status(app, token) for token in (parent, first, second)] == [INVALID] * 3
