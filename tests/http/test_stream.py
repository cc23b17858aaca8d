"""The stream of rules over HTTP: what it starts with, what follows, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.core.change import Change, Receipt
from broker.core.errors import Code, Unavailable
from broker.core.feed import RuleStatement
from broker.core.jwt import InvalidToken
from broker.core.rules import Rule
from broker.core.selector import Selector
from broker.http.server import Bounds
from tests.support.broker_app import BrokerApp, Template, running_app
from tests.support.event_stream import STREAM, EventReader, follow
from tests.support.relay import Relay

QUICK = "feed.heartbeat_seconds = 0.1\n"


@asynccontextmanager
async def _following(app: BrokerApp, token: str, **options: Any) -> AsyncIterator[EventReader]:  # noqa: ANN401 - passed on
    keys = app.services.token_check._keys()
    async with follow(app.http, app.issuer, token, keys, now=time.time(), **options) as reader:
        yield reader


@pytest.fixture
async def token(app: BrokerApp) -> str:
    """Return the token of one who may read rules."""
    return await _token(app)


async def _token(app: BrokerApp) -> str:
    return await app.token("gateway", "broker", "revocations:read")


async def _revoke(app: BrokerApp, agent: str, operator: str | None = None) -> Any:  # noqa: ANN401 - JSON
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    body = {"selector": {"agent": agent}, "reason": "test"}
    operator = operator or await app.operator()
    reply = await app.call("POST", "/v1/revocations", token=operator, json=body, headers=headers)
    assert reply.status in {201, 202}, reply.body
    return reply.json


async def _numbered(reader: EventReader) -> RuleStatement:
    """Return the next rule with a number: it is told without one before, if writing it takes that long."""
    while (told := await reader.rule()).rule.number is None:
        pass
    return told


def _put(app: BrokerApp, number: int | None, rule_id: str | None = None) -> Rule:
    """Put a rule in force as catching up with another process does."""
    rule = Rule(rule_id or f"rule_{number}", Selector(token=f"tok_{number}"), number, time.time(), "x", "y")
    app.services.revocations.rules.add(rule)
    return rule


def _unwritable(app: BrokerApp) -> pytest.MonkeyPatch:
    patch = pytest.MonkeyPatch()

    async def fail(_change: Change) -> Receipt:
        raise Unavailable(Code.LEDGER_UNAVAILABLE, "the disk is full")

    patch.setattr(app.broker.services.revocation._ledger, "commit", fail)
    return patch


async def test_a_newcomer_gets_everything_and_then_what_is_new(app: BrokerApp, token: str) -> None:
    """A snapshot and a heartbeat at once, each rule as it is made, and after it a heartbeat of its epoch."""
    await _revoke(app, "alpha")
    async with _following(app, token) as reader:
        assert reader.response.headers["Content-Type"] == "text/event-stream"
        assert reader.response.headers["Cache-Control"] == "no-store"
        assert reader.response.headers["X-Accel-Buffering"] == "no"
        assert "X-Request-Id" in reader.response.headers
        first = await reader.event()
        assert first is not None
        assert first.id == "1"
        snapshot = reader.read(first)
        assert [rule.number for rule in snapshot.rules.live()] == [1]
        assert (await reader.heartbeat()).epoch == 1
        made = await _revoke(app, "beta")
        told = await _numbered(reader)
        assert (told.rule.id, told.rule.number, told.previous) == (made["id"], 2, 1)
        assert told.rule.selector == Selector(agent="beta")
        beat = await reader.heartbeat()
        assert (beat.epoch, beat.pending) == (2, frozenset())
        assert beat.mark == told.mark != snapshot.mark


async def test_who_was_away_gets_exactly_what_it_missed(app: BrokerApp, token: str) -> None:
    """By the header that a browser's client sends, or by the query; nothing if it missed nothing."""
    for number in range(1, 5):
        _put(app, number)
    for options in ({"after": "2"}, {"query": "?after=2"}):
        async with _following(app, token, **options) as reader:
            events = [await reader.event() for _ in range(3)]
            assert [event.id for event in events if event] == ["3", "4", None]
            assert [reader.read(event).previous for event in events[:2]] == [2, 3]
            assert reader.read(events[2]).epoch == 4
    async with _following(app, token, after="4") as reader:
        assert (await reader.heartbeat()).epoch == 4


@pytest.mark.parametrize("after", ["", "x", "-1", "+2", "2.0", "5", "9" * 16, "9" * 5000, "2, 2", "٢", "1e1", "0"])
async def test_who_resumes_at_what_cannot_be_continued_gets_a_snapshot(app: BrokerApp, token: str, after: str) -> None:
    """What is no epoch, one that is to come, and one that is too long ago."""
    _put(app, 1)
    app.services.feed._recent.clear()
    for number in range(2, 5):
        _put(app, number)
    async with _following(app, token, after=after) as reader:
        assert (await reader.snapshot()).epoch == 4
        assert (await reader.heartbeat()).epoch == 4


async def test_a_rule_that_cannot_be_written_is_told_at_once(app: BrokerApp, token: str) -> None:
    """Law 1: verifiers hear of it whatever becomes of the ledger; a newcomer and one who resumes do, too."""
    await _revoke(app, "alpha")
    async with _following(app, token) as reader, _following(app, token, after="1") as other:
        assert (await reader.snapshot()).epoch == 1
        operator = await app.operator()
        patch = _unwritable(app)
        made = await _revoke(app, "beta", operator)
        assert not made["durable"]
        for each in (reader, other):
            told = await each.rule()
            assert (told.rule.id, told.rule.number, told.rule.ends_at, told.previous) == (made["id"], None, None, 1)
            beat = await each.heartbeat()
            assert (beat.epoch, beat.pending, beat.mark) == (1, frozenset({made["id"]}), told.mark)
        async with _following(app, token, after="1") as late, _following(app, token) as new:
            assert (await late.rule()).rule.id == made["id"]
            assert made["id"] in [rule.id for rule in (await new.snapshot()).rules.live()]
            patch.undo()
            await app.services.revocation.write_pending()
            for each in (reader, other, late, new):
                told = await each.rule()
                assert (told.rule.id, told.rule.number, told.previous) == (made["id"], 2, 1)


async def test_a_withdrawn_rule_is_missing_from_the_next_heartbeat(app: BrokerApp, token: str) -> None:
    """A repeated request puts its rule in force for a moment; whoever heard of it learns that it is none."""
    async with _following(app, token) as reader:
        await reader.snapshot()
        _put(app, None, "rule_x")
        assert (await reader.rule()).rule.id == "rule_x"
        app.services.revocations.rules.remove(["rule_x"])
        while "rule_x" in (await reader.heartbeat()).pending:
            pass
        _put(app, None, "rule_y")
        app.services.revocations.rules.remove(["rule_y"])  # in the same moment: nobody hears of it
        _put(app, 1)
        assert (await reader.rule()).rule.id == "rule_1"


async def test_numbers_that_jump_are_told_as_they_are(app: BrokerApp, token: str) -> None:
    """After an accepted restore the next rule is far above; whoever was told of the epoch before it goes on."""
    _put(app, 1)
    async with _following(app, token, after="1") as reader:
        _put(app, 1 << 40)
        told = await reader.rule()
        assert (told.previous, told.rule.number) == (1, 1 << 40)
    async with _following(app, token, after="1") as reader:
        assert (await reader.rule()).epoch == 1 << 40
    async with _following(app, token, after="2") as reader:
        assert (await reader.snapshot()).epoch == 1 << 40


async def test_a_rule_out_of_its_order_makes_a_snapshot(app: BrokerApp, token: str) -> None:
    """What cannot be told as the next rule is told with all others; nobody resumes across it."""
    _put(app, 5)
    async with _following(app, token, after="5") as reader:
        assert (await reader.heartbeat()).epoch == 5
        _put(app, 3)
        assert {rule.number for rule in (await reader.snapshot()).rules.live()} == {3, 5}
        _put(app, 6)
        assert (await reader.rule()).previous == 5


async def test_a_storm_of_rules_arrives_whole(app: BrokerApp, token: str) -> None:
    """10,000 rules in a second, in bursts: rule by rule where that is less, and nobody misses one."""
    async with _following(app, token) as reader:
        known, seen = (await reader.snapshot()).epoch, set[int]()

        async def storm() -> None:
            for number in range(1, 10_001):
                _put(app, number)
                if number % 300 == 0 and number != 6000:
                    await asyncio.sleep(0)

        putting = asyncio.create_task(storm())
        while known < 10_000:
            event = await reader.event()
            assert event is not None
            read = reader.read(event)
            if event.name == "rule":
                assert read.previous == known
                known = read.epoch
                seen.add(known)
            elif event.name == "snapshot":
                known = read.epoch
                seen = {rule.number for rule in read.rules.live() if rule.number}
            else:
                assert read.epoch == known
        await putting
        assert seen == set(range(1, 10_001))


async def test_rules_while_many_resume(app: BrokerApp, token: str) -> None:
    """Whoever comes while rules are being made has each once, in order, without a gap."""
    _put(app, 1)

    async def one(after: int) -> list[int]:
        numbers = []
        async with _following(app, token, after=str(after)) as reader:
            known = after
            while known < 300:
                event = await reader.next()
                read = reader.read(event)
                assert event is not None
                assert event.name == "rule"
                assert read.previous == known
                known = read.epoch
                numbers.append(known)
        return numbers

    readers = []
    for number in range(2, 301):
        _put(app, number)
        if number % 10 == 0:
            readers.append(asyncio.create_task(one(number - 9)))
        await asyncio.sleep(0)
    for after, numbers in zip(range(1, 300, 10), await asyncio.gather(*readers), strict=True):
        assert numbers == list(range(after + 1, 301))


async def test_the_stream_ends_with_its_token(template: Template, tmp_path: Path) -> None:
    """A rule that kills the token ends the stream before it is told, and so does its expiry."""
    async with running_app(template, tmp_path / "b") as app:
        token = await app.token("gateway", "broker", "revocations:read")
        operator = await app.operator("revocations:read")
        async with _following(app, token) as reader, _following(app, operator) as other:
            await reader.snapshot()
            await other.snapshot()
            await _revoke(app, "gateway")
            assert (await _numbered(other)).rule.selector == Selector(agent="gateway")
            assert await reader.next() is None
            for follower in app.services.feed._followers.values():
                follower.expires_at = time.time()
            assert await other.next() is None
            assert app.services.feed.followers == 0
        assert (await app.call("GET", STREAM, token=token)).json["code"] == "token_revoked"
        metrics = app.services.metrics.text().decode()
        assert 'broker_feed_dropped_total{reason="revoked"} 1.0' in metrics
        assert 'broker_feed_dropped_total{reason="expired"} 1.0' in metrics


async def test_who_may_not_read_rules_follows_nothing(app: BrokerApp) -> None:
    """Default deny: a token, with the scope; nothing in the query but ``after``, once; no body; no other method."""
    good = await app.operator("revocations:read")
    poor = await app.operator("operator:read")
    cases: tuple[tuple[str, str, str | None, dict[str, Any], str], ...] = (
        ("GET", "", None, {}, "token_missing"),
        ("GET", "", poor, {}, "insufficient_scope"),
        ("GET", "?since=1", good, {}, "malformed_request"),
        ("GET", "?after=1&after=2", good, {}, "malformed_request"),
        ("GET", "", good, {"data": b"{}"}, "malformed_request"),
        ("POST", "", good, {}, "method_not_allowed"),
    )
    for method, query, token, rest, code in cases:
        assert (await app.call(method, STREAM + query, token=token, **rest)).json["code"] == code


async def test_looking_at_the_head_of_a_stream(app: BrokerApp) -> None:
    """HEAD says what it would be, and ends."""
    reply = await app.call("HEAD", STREAM, token=await app.operator())
    assert (reply.status, reply.headers["Content-Type"], reply.body) == (200, "text/event-stream", b"")
    assert app.services.feed.followers == 0


async def test_no_more_follow_than_there_is_room_for(template: Template, tmp_path: Path) -> None:
    """One agent leaves room for others, and all of them for what else a broker does; who goes makes room."""
    settings = "feed.streams = 3\nfeed.streams_per_agent = 2\n"
    async with running_app(template, tmp_path / "b", settings=settings) as app, contextlib.AsyncExitStack() as stack:
        tokens = [await app.token(name, "broker", "revocations:read") for name in ("gateway", "operator")]
        first = await stack.enter_async_context(_following(app, tokens[0]))
        await first.snapshot()
        await (await stack.enter_async_context(_following(app, tokens[0]))).snapshot()
        refused = await app.call("GET", STREAM, token=tokens[0])
        assert (refused.status, refused.json["code"], refused.headers["Retry-After"]) == (429, "rate_limited", "5")
        await (await stack.enter_async_context(_following(app, tokens[1]))).snapshot()
        refused = await app.call("GET", STREAM, token=tokens[1])
        assert (refused.status, refused.json["code"]) == (503, "overloaded")
        first.response.close()
        await _until(lambda: app.services.feed.followers == 2)
        await (await stack.enter_async_context(_following(app, tokens[1]))).snapshot()


async def test_a_stream_outlives_what_bounds_a_request(template: Template, tmp_path: Path) -> None:
    """Deadline, slow-client sweeps and room for connections are for requests; it is logged when it begins."""
    bounds = Bounds(write_seconds=0.1, keep_alive_seconds=0.1, connections=4, stop_seconds=5.0)
    site = {"request_seconds": 0.2}
    async with (
        running_app(template, tmp_path / "b", bounds=bounds, site=site, settings=QUICK) as app,
        _following(app, await _token(app)) as reader,
    ):
        await reader.snapshot()
        logged = [line for line in app.events.of("request") if line["route"] == STREAM]
        assert [(line["status"], line["agent"]) for line in logged] == [(200, "gateway")]
        idle = []
        for _ in range(5):
            idle.append(await asyncio.open_connection("127.0.0.1", app.server.port))
            await reader.heartbeat()
        for _ in range(10):
            await reader.heartbeat()
        assert app.services.feed.followers == 1
        for _, writer in idle:
            writer.close()


async def test_a_stop_ends_streams_at_once(template: Template, tmp_path: Path) -> None:
    """Whoever follows goes elsewhere, properly told; the stop does not wait for them, nor for one who does not read."""
    async with running_app(template, tmp_path / "b", bounds=Bounds(stop_seconds=60.0)) as app:
        _, writer = await _deaf(app, await app.operator())
        async with _following(app, await _token(app)) as reader:
            await reader.snapshot()
            _fill(app)
            stopping = asyncio.create_task(app.server.stop())
            while await reader.next() is not None:
                pass
            await asyncio.wait_for(stopping, 30)
        writer.transport.abort()


async def test_who_does_not_read_is_dropped(template: Template, tmp_path: Path) -> None:
    """With a bounded buffer, and without holding up those who read."""
    async with running_app(template, tmp_path / "b") as app, _following(app, await _token(app)) as reader:
        await reader.snapshot()
        _, writer = await _deaf(app, await app.operator())
        await _until(lambda: app.services.feed.followers == 2)
        number = 0
        while app.services.feed.followers == 2:
            assert number < 100_000
            number += 100
            for one in range(number - 99, number + 1):
                _put(app, one)
            while (await reader.rule()).epoch < number:
                pass
            assert max(each.sink.unread for each in app.services.feed._followers.values()) < 512 * 1024
        assert 'broker_feed_dropped_total{reason="slow"} 1.0' in app.services.metrics.text().decode()
        writer.close()


async def test_one_who_has_just_gone_keeps_nothing_from_the_others(app: BrokerApp, token: str) -> None:
    """Between the end of a connection and the moment at which its stream hears of it, there may be news."""
    feed = app.services.feed
    async with _following(app, token) as gone:
        await gone.snapshot()
        ((sink, follower),) = feed._followers.items()
    await _until(lambda: feed.followers == 0)
    async with _following(app, token) as reader, asyncio.timeout(60):
        await reader.snapshot()
        (other,) = feed._followers
        feed._followers[sink] = follower
        feed._followers[other] = feed._followers.pop(other)
        _put(app, 1)
        assert (await reader.rule()).rule.number == 1
        feed._followers.pop(sink)


async def test_who_speaks_into_a_stream_is_cut_off(app: BrokerApp, token: str) -> None:
    """There is nothing to say: what is sent would be kept for a request that never begins."""
    reader, writer = await _raw(app, token, "HTTP/1.1")
    await reader.readuntil(b"event: heartbeat")
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), 30)
    await _until(lambda: app.services.feed.followers == 0)
    writer.close()


async def test_old_clients_read_until_the_end(app: BrokerApp, token: str) -> None:
    """HTTP/1.0 has no chunks: the body is the events, up to the end of the connection."""
    reader, writer = await _raw(app, token, "HTTP/1.0")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 ")
    assert b"chunked" not in head
    assert await reader.readuntil(b"\n\n") == b"retry: 1000\n\n"
    assert (await reader.readuntil(b"\n\n")).startswith(b"id: 0\nevent: snapshot\ndata: ey")
    app.services.feed.end()
    rest = await asyncio.wait_for(reader.read(), 30)
    assert rest.startswith(b"event: heartbeat\ndata: ey")
    assert rest.endswith(b"\n\n")
    writer.close()


async def test_a_thousand_come_and_go(app: BrokerApp) -> None:
    """Nothing of them is left, and what they are told is signed once for all of them."""
    token, signed = await app.operator(), 0
    sign = app.services.feed._statements._signed  # type: ignore[attr-defined]

    def counting(*given: Any) -> Any:  # noqa: ANN401 - passed on
        nonlocal signed
        signed += 1
        return sign(*given)

    app.services.feed._statements._signed = counting  # type: ignore[attr-defined]
    began = time.time()
    for _ in range(10):
        clients = await asyncio.gather(*(_raw(app, token, "HTTP/1.1") for _ in range(100)))
        await asyncio.gather(*(reader.readuntil(b"event: heartbeat") for reader, _ in clients))
        assert await app.token("alpha")
        for _, writer in clients:
            writer.transport.abort()
    await _until(lambda: app.services.feed.followers == 0)
    assert not app.services.feed._per_agent
    assert signed <= 2 * (int(time.time()) - int(began) + 1)


async def test_a_relay_needs_no_trust(app: BrokerApp, token: str) -> None:
    """Bytes that were kept and passed on are as good as the broker's own; once changed, they show it."""
    keys, now = app.services.token_check._keys(), time.time()
    async with follow(app.http, app.issuer, token, keys, now=now) as upstream:
        relay = Relay(upstream.response)
        await relay.start()
        try:
            _put(app, 1)
            await _until(lambda: any(b"event: rule" in event for event in relay.kept))
            async with follow(app.http, relay.url, "nobody's", keys, now=now, issuer=app.issuer) as reader:
                assert (await reader.snapshot()).epoch == 0
                assert ((await reader.rule()).epoch, (await reader.heartbeat()).epoch) == (1, 1)
                _put(app, 2)
                assert (await reader.rule()).previous == 1
            relay.kept = [event.replace(b"data: ey", b"data: eX") for event in relay.kept]
            async with follow(app.http, relay.url, "nobody's", keys, now=now, issuer=app.issuer) as reader:
                with pytest.raises(InvalidToken):
                    await reader.snapshot()
        finally:
            await relay.stop()


async def test_the_same_snapshot_is_not_sent_twice(app: BrokerApp) -> None:
    """Whoever has this very statement is told so; after a rule or a second it is another one."""
    token = await app.operator()
    path = "/v1/revocations/snapshot"
    first = await app.call("GET", path, token=token)
    tag = first.headers["ETag"]
    assert first.body.decode().endswith(tag.strip('"'))
    app.services.revocations.rules.add(Rule("rule_1", Selector(agent="x"), 1, time.time(), "x", "y"))
    second = await app.call("GET", path, token=token, headers={"If-None-Match": tag})
    assert second.status == 200
    while (again := await app.call("GET", path, token=token, headers={"If-None-Match": tag})).status == 200:
        tag = again.headers["ETag"]
    assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)


# --- more


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)


async def _raw(app: BrokerApp, token: str, version: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask for the stream over a connection of one's own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", app.server.port, limit=2**22)
    writer.write(f"GET {STREAM} {version}\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    return reader, writer


async def _deaf(app: BrokerApp, token: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask for the stream, and read nothing."""
    before = app.services.feed.followers
    reader, writer = await _raw(app, token, "HTTP/1.1")
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await _until(lambda: app.services.feed.followers == before + 1)
    return reader, writer


def _fill(app: BrokerApp) -> None:
    """Send so much that whoever does not read has it left in the broker."""
    for number in range(1, 300):
        _put(app, number)
        app.services.feed._tell_news()
