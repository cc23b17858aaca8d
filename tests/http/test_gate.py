from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from broker.core.errors import BrokerError, Code
from broker.core.grant import Ask
from broker.issuance import Issued, TokenRequest
from broker.ports import Caller
from tests.support.broker_app import TICKETS, BrokerApp, Template, running_app

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class _Issuance:
    """Stands where tokens are issued, and does what a test wants to happen there."""

    def __init__(self, error: BaseException | None = None, seconds: float = 0) -> None:
        self.error = error
        self.seconds = seconds
        self.asked: list[Ask] = []

    async def issue(self, request: TokenRequest, caller: Caller) -> Issued:
        self.asked.append(request.ask)
        await asyncio.sleep(self.seconds)
        raise self.error or RuntimeError("nothing to say")


def _raising(app: BrokerApp, error: BaseException) -> None:
    app.services.issuance.issue = _Issuance(error).issue  # type: ignore[method-assign]


async def test_every_answer_has_the_usual_headers(app: BrokerApp) -> None:
    """Whatever the answer: a request id, a trace, and headers that keep browsers from doing anything with it."""
    for reply in (
        await app.call("GET", "/healthz"),
        await app.call("GET", "/nothing"),
        await app.call("GET", "/v1/keys"),
        await app.call("GET", "/oauth2/jwks.json"),
        await app.ask({}),
    ):
        assert re.fullmatch(r"req_[0-9A-Z]{26}", reply.headers["X-Request-Id"])
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", reply.headers["traceparent"])
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert reply.headers["Referrer-Policy"] == "no-referrer"
        assert reply.headers["Server"] == "broker"
        assert "Strict-Transport-Security" not in reply.headers  # a plain http issuer of a test
        assert "Set-Cookie" not in reply.headers


async def test_a_trace_is_continued(app: BrokerApp) -> None:
    """The caller's trace id is in the answer, the log and the ledger; the request id is ours alone."""
    form = app.form("alpha", audience=TICKETS, scope="tickets:read")
    reply = await app.ask(form, {"traceparent": PARENT, "X-Request-Id": "req_forged"})
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    assert reply.headers["traceparent"].split("-")[1] == trace
    assert (await app.entries("token.issued"))[-1]["trace"] == trace
    line = app.events.of("request")[-1]
    assert (line["trace"], line["request"]) == (trace, reply.headers["X-Request-Id"])
    assert reply.headers["X-Request-Id"] != "req_forged"


async def test_the_access_log_says_who_did_what(app: BrokerApp) -> None:
    """A line per request: route, status, agent, code; never a path that a caller chose, or anything else of theirs."""
    await app.ask(app.form("alpha", audience=TICKETS, scope="tickets:read"))
    await app.ask(app.form("alpha", audience=TICKETS, scope="tickets:delete"))
    await app.call("GET", "/v1/revocations/secret-in-the-path?secret=in-the-query", token=await app.operator())
    await app.call("GET", "/no/such/secret")
    lines = app.events.of("request")
    said = [(line["method"], line["route"], line["status"], line["code"], line["agent"]) for line in lines]
    assert said == [
        ("POST", "/oauth2/token", 200, None, "alpha"),
        ("POST", "/oauth2/token", 400, "scope_not_allowed", None),
        ("POST", "/oauth2/token", 200, None, "operator"),
        ("GET", "/v1/revocations/{rule}", 404, "not_found", "operator"),
        ("GET", "unmatched", 404, "not_found", None),
    ]
    assert all(line["address"] == "127.0.0.1" and line["milliseconds"] >= 0 for line in lines)
    assert "secret" not in str(lines)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /healthz HTTP/1.1\r\nHost: x\r\ntraceparent: a\rb\r\n\r\n",
        b"GET /health\nz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /%0d%0aforged:%20line HTTP/1.1\r\nHost: x\r\nUser-Agent: a\x1b[31mb\r\n\r\n",
        b"FORGED\x0bMETHOD /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\nlevel=error\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    ],
)
async def test_nothing_a_caller_sends_forges_a_log_line(app: BrokerApp, raw: bytes) -> None:
    """Control characters in any part of a request are refused or not logged, and what is not HTTP is answered so."""
    reader, writer = await asyncio.open_connection("127.0.0.1", app.server.port)
    writer.write(raw + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert answer.startswith(b"HTTP/1.")
    assert b"forged" not in answer.lower()
    assert all(
        character.isprintable() for line in app.events.lines for value in line.values() for character in str(value)
    )


async def test_what_fails_inside_stays_inside(app: BrokerApp) -> None:
    """An unexpected error is 500 without a word of its text; the log has its kind and the request id."""
    _raising(app, RuntimeError("the secret is hunter2"))
    reply = await app.ask(app.form("alpha", audience=TICKETS, scope="tickets:read"))
    assert (reply.status, reply.json["error"], reply.json["code"]) == (500, "server_error", "internal")
    assert b"hunter2" not in reply.body
    (line,) = app.events.of("request.failed")
    assert line["request"] == reply.headers["X-Request-Id"]


async def test_every_code_is_answered(app: BrokerApp) -> None:
    """Any code that can be raised inside becomes a well-formed OAuth error with a status that fits."""
    for code in Code:
        _raising(app, BrokerError(code, 'why\u00e4 "it" failed'))
        reply = await app.ask(app.form("alpha", audience=TICKETS, scope="tickets:read"))
        assert 400 <= reply.status < 600
        assert reply.json["code"] == code.value
        assert reply.json["error_description"] == "why? 'it' failed"
        assert ("Retry-After" in reply.headers) is (reply.status in {429, 503})


async def test_a_request_has_a_deadline(template: Template, tmp_path: Path) -> None:
    """A request that takes too long inside is ended and answered 503."""
    async with running_app(template, tmp_path / "b", site={"request_seconds": 0.05}) as app:
        slow = _Issuance(seconds=60)
        app.services.issuance.issue = slow.issue  # type: ignore[method-assign]
        reply = await app.ask(app.form("alpha", audience=TICKETS, scope="tickets:read"))
        assert (reply.status, reply.json["code"]) == (503, "overloaded")
        assert slow.asked


async def test_a_body_has_a_deadline(template: Template, tmp_path: Path) -> None:
    """A client that sends its body drop by drop is told that it is too slow, and the connection is closed."""
    async with running_app(template, tmp_path / "b", site={"body_seconds": 0.05}) as app:
        reader, writer = await asyncio.open_connection("127.0.0.1", app.server.port)
        writer.write(
            b"POST /oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            b"Content-Length: 100\r\n\r\ngrant_"
        )
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"too_slow" in answer


async def test_strangers_that_fail_too_often_must_wait(template: Template, tmp_path: Path) -> None:
    """An address that keeps failing gets 429; its good requests too, but whoever has a token gets in all the same."""
    async with running_app(template, tmp_path / "b", site={"failures_per_minute": 5, "unlimited": ()}) as app:
        operator, victim = await app.operator(), await app.token("alpha")
        for _ in range(5):
            assert (await app.ask({"grant_type": "client_credentials"})).status == 400
        reply = await app.ask(app.form("alpha", audience=TICKETS, scope="tickets:read"))
        assert (reply.status, reply.json["code"]) == (429, "rate_limited")
        assert 0 < int(reply.headers["Retry-After"]) <= 60
        redeemed = await app.call("POST", "/v1/enrollments/redeem", json={"code": "x", "jwk": {}, "proof": "x"})
        assert redeemed.status == 429
        order = {"selector": {"agent": "alpha"}, "reason": "test"}
        revoked = await app.call(
            "POST", "/v1/revocations", token=operator, json=order, headers={"Idempotency-Key": "k"}
        )
        assert revoked.status == 201
        assert (await app.call("GET", "/oauth2/jwks.json")).status == 200
        assert victim


async def test_failures_of_known_agents_are_not_held_against_their_address(template: Template, tmp_path: Path) -> None:
    """An authenticated agent that asks for too much does not lock out its neighbours."""
    async with running_app(template, tmp_path / "b", site={"failures_per_minute": 2, "unlimited": ()}) as app:
        for _ in range(4):
            reply = await app.ask(app.form("alpha", audience=TICKETS, scope="tickets:delete"))
            assert reply.json["code"] == "scope_not_allowed"
        assert await app.token("beta")


async def test_health(app: BrokerApp) -> None:
    """A broker that lives says so; one that is ready says what it looked at."""
    assert (await app.call("GET", "/healthz")).json == {"status": "ok"}
    reply = await app.call("GET", "/readyz")
    assert reply.status == 200
    assert set(reply.json["checks"].values()) == {"ok"}
    assert "ledger" in reply.json["checks"]


async def test_a_broker_that_is_not_ready(template: Template, tmp_path: Path) -> None:
    """It answers 503 and which check fails, but not why: strangers may ask."""

    async def failing() -> Mapping[str, str | None]:
        return {"ledger": "disk full at /var/lib/secret", "keys": None}

    async with running_app(template, tmp_path / "b", adjust=lambda services: replace(services, health=failing)) as app:
        reply = await app.call("GET", "/readyz")
        assert reply.status == 503
        assert reply.json == {"status": "failing", "checks": {"ledger": "failing", "keys": "ok"}}
        assert (await app.call("GET", "/healthz")).status == 200


async def test_metrics_are_private(template: Template, tmp_path: Path) -> None:
    """Metrics are on a listener of their own, with labels that no caller can make up."""
    async with running_app(template, tmp_path / "b", metrics=True) as app:
        await app.token("alpha")
        await app.call("GET", "/made/up/path")
        await app.ask(app.form("alpha", audience=TICKETS, scope="made:up"))
        async with app.http.get(f"http://127.0.0.1:{app.server.metrics_port}/metrics") as response:
            text = await response.text()
            assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert 'broker_tokens_issued_total{method="private_key_jwt",role="support"} 1.0' in text
        assert 'broker_refusals_total{code="scope_not_allowed"} 1.0' in text
        assert 'broker_request_duration_seconds_count{route="/oauth2/token",status="2xx"} 1.0' in text
        assert 'route="unmatched",status="4xx"' in text
        assert "made" not in text
        async with app.http.get(f"http://127.0.0.1:{app.server.metrics_port}/v1/keys") as response:
            assert response.status == 404
        assert (await app.call("GET", "/metrics")).status == 404
