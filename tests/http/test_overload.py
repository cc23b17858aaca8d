from __future__ import annotations

import asyncio
from collections.abc import Iterable
from urllib.parse import urlencode

import pytest

from broker.http.call import Route
from broker.http.routes import API_ROUTES, METRICS_ROUTES, OAUTH_ROUTES
from broker.http.urgency import Urgency
from tests.support.broker_app import TICKETS, BrokerApp

RESPONDING = ("revocations:", "approvals:", "tasks:close")
"""The scopes of routes that stop or permit what is under way. Whoever may do that must get through."""

REVOCATION = {"selector": {"agent": "alpha"}, "reason": "overload"}


def _crowd(app: BrokerApp, *urgencies: Urgency) -> None:
    """Take all places of some kinds, as if they were taken for long."""
    for urgency in urgencies:
        lane = app.services.pressure.lanes[urgency]
        lane.limit, lane.patience = 0, 0


def _shed(app: BrokerApp, urgency: Urgency) -> float:
    line = f'broker_requests_shed_total{{urgency="{urgency.value}"}}'
    found = [row for row in app.services.metrics.text().decode().splitlines() if row.startswith(line)]
    return float(found[0].split()[-1]) if found else 0.0


def _under_way(app: BrokerApp) -> list[int]:
    return [lane.under_way for lane in app.services.pressure.lanes.values()]


def _named(routes: Iterable[Route], urgency: Urgency) -> set[tuple[str, str]]:
    return {(route.method, route.path) for route in routes if route.urgency is urgency}


def test_whoever_responds_is_never_turned_away() -> None:
    """Each route whose scope lets somebody revoke, follow the rules, decide or close is of the first class."""
    for route in API_ROUTES:
        if isinstance(route.access, str) and route.access.startswith(RESPONDING):
            assert route.urgency is Urgency.REVOKING, route.path
    assert ("POST", "/oauth2/revoke") in _named(OAUTH_ROUTES, Urgency.REVOKING)
    assert {route.urgency for route in METRICS_ROUTES} == {Urgency.REVOKING}


def test_what_is_turned_away_first_is_a_short_list() -> None:
    """It is what gives out authority, and grows on purpose only."""
    assert _named((*API_ROUTES, *OAUTH_ROUTES), Urgency.ISSUING) == {
        ("POST", "/oauth2/token"),
        ("POST", "/v1/actions"),
        ("POST", "/v1/enrollments/redeem"),
        ("POST", "/v1/leases"),
        ("POST", "/v1/leases/{id}/renew"),
        ("POST", "/v1/tasks"),
    }


async def test_a_token_request_that_is_too_much_is_refused_unread(app: BrokerApp) -> None:
    """503 as OAuth has it, with a time to come back; the assertion in it was not looked at, and is good later."""
    form = app.form("alpha", audience=TICKETS, scope="tickets:read")
    lane = app.services.pressure.lanes[Urgency.ISSUING]
    limit, patience = lane.limit, lane.patience
    _crowd(app, Urgency.ISSUING)
    for sent in (form, {"grant_type": "nonsense"}):
        reply = await app.ask(sent)
        assert (reply.status, reply.json["error"]) == (503, "temporarily_unavailable")
        assert reply.json["code"] == "overloaded"
        assert 1 <= int(reply.headers["Retry-After"]) <= 4
    assert _shed(app, Urgency.ISSUING) == 2
    lane.limit, lane.patience = limit, patience
    assert (await app.ask(form)).status == 200
    assert _under_way(app) == [0, 0, 0, 0]


async def test_the_api_says_it_as_a_problem(app: BrokerApp) -> None:
    """Leases, tasks and actions are turned away before the token that came with them is looked at."""
    _crowd(app, Urgency.ISSUING)
    for path in ("/v1/leases", "/v1/tasks", "/v1/actions"):
        reply = await app.call("POST", path, token="nonsense", json={})
        assert (reply.status, reply.json["code"]) == (503, "overloaded")
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert int(reply.headers["Retry-After"]) >= 1


async def test_an_operator_gets_in_and_revokes(app: BrokerApp) -> None:
    """With no room for what issues and tells: sign in, revoke, see that it is done, lift the block."""
    token = await app.token("alpha")
    _crowd(app, Urgency.ISSUING, Urgency.TELLING)
    operator = await app.operator()
    body = {**REVOCATION, "block": {"for": "1h"}}
    made = await app.call("POST", "/v1/revocations", token=operator, json=body, headers={"Idempotency-Key": "k1"})
    assert made.status == 201
    shown = await app.call("GET", made.headers["Location"], token=operator)
    assert shown.json["durable"] is True
    lifted = await app.call("DELETE", f"/v1/blocks/{made.json['block']['id']}", token=operator)
    assert lifted.status == 204
    assert (await app.call("GET", "/healthz")).status == 200
    ended = await app.call("POST", "/oauth2/revoke", token=operator, data={"token": token})
    assert ended.status == 200
    assert _shed(app, Urgency.REVOKING) == 0
    assert _under_way(app) == [0, 0, 0, 0]


@pytest.mark.parametrize("name", ["resource", "audience"])
async def test_signing_in_may_name_the_api_in_each_way(app: BrokerApp, name: str) -> None:
    """By its URL as a resource or an audience, and by its short name."""
    _crowd(app, Urgency.ISSUING)
    for value in (f"{app.issuer}/v1", "broker"):
        if (name, value) != ("resource", "broker"):
            form = app.form("operator", scope="revocations:write", **{name: value})
            assert (await app.ask(form)).status == 200


async def test_few_places_are_for_signing_in(app: BrokerApp) -> None:
    """Who only claims to be an operator competes for them with others who do, and with nobody else."""
    _crowd(app, Urgency.ISSUING, Urgency.SIGNING_IN)
    reply = await app.ask(app.form("operator", audience="broker", scope="revocations:write"))
    assert (reply.status, reply.json["code"]) == (503, "overloaded")
    assert (_shed(app, Urgency.SIGNING_IN), _shed(app, Urgency.ISSUING)) == (1, 0)


async def test_telling_has_a_limit_of_its_own(app: BrokerApp) -> None:
    """While issuing is turned away introspection answers; without room of its own it is turned away as well."""
    token, operator = await app.token("alpha"), await app.operator()
    _crowd(app, Urgency.ISSUING)
    reply = await app.call("POST", "/oauth2/introspect", token=operator, data={"token": token})
    assert reply.json["active"] is True
    _crowd(app, Urgency.TELLING)
    for reply in (
        await app.call("POST", "/oauth2/introspect", token=operator, data={"token": token}),
        await app.call("GET", "/v1/ledger/entries", token=operator),
        await app.call("GET", "/no/such/path"),
    ):
        assert reply.status == 503
        assert reply.json["code"] == "overloaded"


async def test_a_burst_is_served(app: BrokerApp) -> None:
    """More requests at once than may be under way wait for each other; none is turned away."""
    lane = app.services.pressure.lanes[Urgency.ISSUING]
    lane.limit, lane.patience = 4, 60
    replies = await asyncio.gather(
        *(app.ask(app.form("alpha", audience=TICKETS, scope="tickets:read")) for _ in range(40))
    )
    assert {reply.status for reply in replies} == {200}
    assert _under_way(app) == [0, 0, 0, 0]


async def test_strangers_are_held_back_under_load_only(app: BrokerApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is never turned away is of no use to them: their refusals are paced; an operator's answers never are."""
    operator = await app.operator()
    pauses: list[float] = []

    def pause(_now: float) -> float:
        pauses.append(0.0)
        return 0.0

    monkeypatch.setattr(app.services.pressure, "pause", pause)
    headers = {"Idempotency-Key": "k1"}
    assert (await app.call("POST", "/v1/revocations", token="nonsense", json=REVOCATION)).status == 401
    assert not pauses
    _crowd(app, Urgency.ISSUING)
    assert (await app.call("POST", "/v1/revocations", token="nonsense", json=REVOCATION)).status == 401
    assert len(pauses) == 1
    assert (await app.call("POST", "/v1/revocations", token=operator, json={}, headers=headers)).status == 400
    made = await app.call("POST", "/v1/revocations", token=operator, json=REVOCATION, headers=headers)
    assert made.status == 201
    assert len(pauses) == 1


async def test_what_follows_a_refusal_is_answered(app: BrokerApp) -> None:
    """A refusal may be held back, but the connection goes on, and nothing is lost or reordered."""
    _crowd(app, Urgency.ISSUING)
    body = urlencode({"grant_type": "client_credentials"}).encode()
    head = f"POST /oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", app.server.port)
    writer.write((head.encode() + body) * 3)
    await writer.drain()
    writer.write(last)
    answers = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    assert [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]] == [b"503", b"503", b"503", b"200"]


async def test_a_body_that_has_not_come_is_not_waited_for(app: BrokerApp) -> None:
    """The refusal comes at once, and the rest of the request does not become another one."""
    _crowd(app, Urgency.ISSUING)
    reader, writer = await asyncio.open_connection("127.0.0.1", app.server.port)
    inner = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    writer.write(f"POST /oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Length: {len(inner)}\r\n\r\n".encode())
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).startswith(b"HTTP/1.1 503")
    writer.write(inner)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readuntil(b"HTTP/1.1 200"), 0.5)
    writer.close()


async def test_who_hangs_up_is_forgotten(app: BrokerApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that do not wait for a refusal that is held back leave nothing behind; stopping ends as ever."""
    _crowd(app, Urgency.ISSUING)
    monkeypatch.setattr(app.services.pressure, "pause", lambda _now: 0.3)
    for _ in range(5):
        _, writer = await asyncio.open_connection("127.0.0.1", app.server.port)
        writer.write(b"POST /oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()
    await asyncio.wait_for(app.server.stop(), 30)
    assert not [line for line in app.events.lines if line["event"] == "request.failed"]
