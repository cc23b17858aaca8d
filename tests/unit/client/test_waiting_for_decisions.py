"""Requests that people decide on: at which pace they are asked about, for how long, and what survives in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from broker.client import Client, KeyIdentity, Token, TokenPending, TokenRefused, TokenUnavailable
from broker.client.endpoint import MAX_HELD
from broker.core.errors import Code
from tests.support.fake_broker import TOKEN, FakeBroker, answering
from tests.support.virtual_time import VirtualTime

AUDIENCE = "https://payments.internal"
SCOPES = ("refunds:create",)
KEY = ec.generate_private_key(ec.SECP256R1())
APPROVAL = "apr_01KAG8M2Z1YQ4T7R9W3X5V6B8P"


def pending(error: str = "authorization_pending", **members: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """An answer that says that a person has to decide."""
    return {"error": error, "auth_req_id": APPROVAL, "interval": 2, "expires_in": 600, **members}


class Desk:
    """Answers token requests with what is on the list, then as a broker does; keeps what was asked."""

    def __init__(self, broker: FakeBroker, *answers: dict[str, Any]) -> None:
        self.asked: list[dict[str, str]] = []
        self.holds: list[str | None] = []
        self.before: Callable[[], None] = lambda: None
        self._answers: Iterator[dict[str, Any]] = iter(answers)
        broker.faults[TOKEN] = self._answer

    async def _answer(self, request: web.Request) -> web.Response | None:
        self.asked.append(dict(parse_qsl(await request.text())))
        self.holds.append(request.headers.get("Prefer"))
        self.before()
        body = next(self._answers, None)
        return None if body is None else web.json_response(body, status=400)


@pytest.fixture
def time() -> VirtualTime:
    """Time that the test moves."""
    return VirtualTime()


@pytest.fixture
async def broker(time: VirtualTime) -> AsyncIterator[FakeBroker]:
    """A running broker."""
    fake = FakeBroker(lambda: time.wall)
    await fake.start()
    yield fake
    await fake.stop()


@asynccontextmanager
async def patient(
    broker: FakeBroker,
    time: VirtualTime,
    seconds: float = 600,
    **more: Any,  # noqa: ANN401 - the client's
) -> AsyncIterator[Client]:
    """A client that waits for people."""
    identity = KeyIdentity("planner", KEY)
    async with Client(broker.url, identity=identity, approval_seconds=seconds, timing=time.timing(), **more) as made:
        yield made


async def refund(client: Client) -> Token:
    """Ask for what a person must agree to."""
    return await client.token(AUDIENCE, SCOPES)


async def test_it_asks_again_at_the_brokers_pace(broker: FakeBroker, time: VirtualTime) -> None:
    """With the same parameters, the request's id, and a fresh assertion; never sooner than it was told to."""
    desk = Desk(broker, pending(interval=3), pending(interval=3), pending(interval=4))
    async with patient(broker, time) as client:
        token = await refund(client)
    assert token.approved
    assert time.slept == [3, 3, 4]
    first, *others = desk.asked
    assert "auth_req_id" not in first
    assert {again["auth_req_id"] for again in others} == {APPROVAL}
    assert len({one["client_assertion"] for one in desk.asked}) == 4
    for again in others:
        assert {**again, "client_assertion": ""} == {**first, "client_assertion": "", "auth_req_id": APPROVAL}


async def test_slow_down_holds_for_good(broker: FakeBroker, time: VirtualTime) -> None:
    """Five seconds more each time it is said, whatever interval is named with it, and for all further questions."""
    Desk(broker, pending(), pending("slow_down"), pending(), {"error": "slow_down"}, pending(interval=60))
    async with patient(broker, time) as client:
        await refund(client)
    assert time.slept == [2, 7, 7, 12, 60]


@pytest.mark.parametrize(
    ("interval", "pause"), [(None, 5), (0, 5), (-1, 5), (True, 5), ("2", 5), (2.5, 5), (10**12, 600), (1, 1)]
)
async def test_a_strange_interval_is_no_busy_loop(
    broker: FakeBroker, time: VirtualTime, interval: object, pause: int
) -> None:
    """What is not a number of seconds is five of them, and none is absurd."""
    Desk(broker, pending(interval=interval))
    async with patient(broker, time, seconds=1000) as client:
        await refund(client)
    assert time.slept == [pause]


async def test_an_answer_that_was_held_back_is_followed_at_once(broker: FakeBroker, time: VirtualTime) -> None:
    """The broker is asked to hold its answer; the time that it does counts as waited, and no token is cut by it."""
    desk = Desk(broker, pending(), pending(), pending())
    broker.lifetime = 15

    def hold() -> None:
        time.advance(0 if desk.holds[-1] is None else 20)

    desk.before = hold
    async with patient(broker, time) as client:
        first = await refund(client)
        assert (await refund(client)).access_token == first.access_token
    assert desk.holds == [None, "wait=20", "wait=20", "wait=20"]
    assert time.slept == [2]


async def test_not_longer_than_the_caller_waits(broker: FakeBroker, time: VirtualTime) -> None:
    """An answer is held back for what is left at most; when the time is over, the caller is told what it waits for."""
    desk = Desk(broker, *[pending() for _ in range(100)])
    async with patient(broker, time, seconds=11) as client:
        with pytest.raises(TokenPending) as caught:
            await refund(client)
    assert (caught.value.auth_req_id, caught.value.expires_in) == (APPROVAL, 600)
    assert sum(time.slept) <= 11
    assert desk.holds == [None, "wait=9", "wait=7", "wait=5", "wait=3", "wait=1"]


async def test_many_waits_do_not_keep_all_connections(broker: FakeBroker, time: VirtualTime) -> None:
    """Some let the answer be held back; the others ask again and again, and all come to their end."""
    arrived, go = asyncio.Event(), asyncio.Event()
    held, waits = 0, MAX_HELD + 5

    async def answer(request: web.Request) -> web.Response | None:
        nonlocal held
        form = dict(parse_qsl(await request.text()))
        if "auth_req_id" not in form:
            return web.json_response(pending(auth_req_id=f"apr_{form['may_act']}"), status=400)
        if "Prefer" in request.headers:
            held += 1
            if held == MAX_HELD:
                arrived.set()
            await go.wait()
            return None
        await arrived.wait()
        go.set()
        return None

    broker.faults[TOKEN] = answer
    async with patient(broker, time) as client:
        wanted = [client.token(AUDIENCE, SCOPES, may_act=f"agent-{number}") for number in range(waits)]
        tokens = await asyncio.wait_for(asyncio.gather(*wanted), 30)
    assert len({token.access_token for token in tokens}) == waits
    assert held == MAX_HELD


async def test_without_patience_nothing_is_waited_for(broker: FakeBroker, time: VirtualTime) -> None:
    """And asking again goes on with the request; when the broker has forgotten it, a new one is made."""
    desk = Desk(broker, pending(), pending(), pending(), pending())
    async with patient(broker, time, seconds=0) as client:
        for _ in range(2):
            with pytest.raises(TokenPending):
                await refund(client)
        time.advance(600 + 299)
        with pytest.raises(TokenPending):
            await refund(client)
        time.advance(600 + 300)
        with pytest.raises(TokenPending):
            await refund(client)
    assert [one.get("auth_req_id") for one in desk.asked] == [None, APPROVAL, APPROVAL, None]
    assert time.slept == []


async def test_a_refusal_ends_the_request(broker: FakeBroker, time: VirtualTime) -> None:
    """Whoever asks again after a no, asks people again."""
    denied = {"error": "access_denied", "code": "approval_denied", "error_description": "the request was denied"}
    desk = Desk(broker, pending(), denied)
    async with patient(broker, time) as client:
        with pytest.raises(TokenRefused) as caught:
            await refund(client)
        await refund(client)
    assert caught.value.code is Code.APPROVAL_DENIED
    assert "auth_req_id" not in desk.asked[-1]


async def test_a_broker_that_goes_away_does_not_lose_the_request(broker: FakeBroker, time: VirtualTime) -> None:
    """What a person may have agreed to meanwhile is gone on with, not asked for a second time."""
    desk = Desk(broker, pending())
    async with patient(broker, time) as client:

        def vanish() -> None:
            if len(desk.asked) > 1:
                raise web.HTTPServiceUnavailable

        desk.before = vanish
        with pytest.raises(TokenUnavailable) as caught:
            await refund(client)
        assert not isinstance(caught.value, TokenPending)
        desk.before = lambda: None
        await refund(client)
    assert desk.asked[-1]["auth_req_id"] == APPROVAL


async def test_all_who_want_the_same_wait_together(broker: FakeBroker, time: VirtualTime) -> None:
    """One request, one wait; one of them giving up changes nothing for the others."""
    reached, go = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.Response | None:
        if "auth_req_id" not in dict(parse_qsl(await request.text())):
            return web.json_response(pending(), status=400)
        reached.set()
        await go.wait()
        return None

    broker.faults[TOKEN] = answer
    async with patient(broker, time) as client:
        callers = [asyncio.ensure_future(refund(client)) for _ in range(5)]
        await reached.wait()
        callers[0].cancel()
        go.set()
        done = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError)
    assert len({token.access_token for token in done[1:] if isinstance(token, Token)}) == 1
    assert broker.asked[TOKEN] == 2


async def test_closing_ends_the_wait(broker: FakeBroker) -> None:
    """Nobody is left waiting for a client that is gone."""
    time = VirtualTime(flows=False)
    Desk(broker, pending())
    async with patient(broker, time) as client:
        waiting = asyncio.ensure_future(refund(client))
        async with asyncio.timeout(10):
            while not time.sleepers:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
    with pytest.raises(TokenUnavailable, match="closed"):
        await waiting


async def test_the_caller_is_told_once_of_each_request(
    broker: FakeBroker, time: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    """A budget that has to be lifted first is another request; a callback that fails does not end the wait."""
    told: list[tuple[str, int]] = []

    def on_pending(auth_req_id: str, expires_in: int) -> None:
        told.append((auth_req_id, expires_in))
        raise ValueError(auth_req_id)

    second = pending(auth_req_id="apr_2", expires_in="soon")
    Desk(broker, pending(), pending(expires_in=590), second, second)
    async with patient(broker, time, on_pending=on_pending) as client:
        await refund(client)
    assert told == [(APPROVAL, 600), ("apr_2", 0)]
    assert [record.getMessage() for record in caplog.records] == ["on_pending failed: ValueError"] * 2


async def test_going_on_with_another_process_request(broker: FakeBroker, time: VirtualTime) -> None:
    """Its id is sent with the first question; a token that is at hand needs none."""
    desk = Desk(broker)
    async with patient(broker, time) as client:
        for _ in range(2):
            await client.token(AUDIENCE, SCOPES, auth_req_id=APPROVAL)
        assert [one["auth_req_id"] for one in desk.asked] == [APPROVAL]
        client.invalidate(await refund(client))
        await refund(client)
    assert "auth_req_id" not in desk.asked[1]


@pytest.mark.parametrize("auth_req_id", [None, 7, "", "a b", "a\nb", "x" * 129, ["a"]])
async def test_an_answer_that_names_no_request_is_a_refusal(
    broker: FakeBroker, time: VirtualTime, auth_req_id: object
) -> None:
    """What cannot be asked about again is not waited for."""
    broker.faults[TOKEN] = answering(400, pending(auth_req_id=auth_req_id))
    async with patient(broker, time) as client:
        with pytest.raises(TokenRefused):
            await refund(client)
    assert time.slept == []


async def test_at_most_a_hundred_requests_are_remembered(broker: FakeBroker, time: VirtualTime) -> None:
    """The oldest goes first; asking for it again puts it before people again, where it is the same request."""
    desk = Desk(broker, *[pending(auth_req_id=f"apr_{number}") for number in range(103)])
    async with patient(broker, time, seconds=0) as client:
        for number in [*range(101), 0, 100]:
            with pytest.raises(TokenPending):
                await client.token(AUDIENCE, SCOPES, may_act=f"agent-{number}")
    assert "auth_req_id" not in desk.asked[101]
    assert desk.asked[102]["auth_req_id"] == "apr_100"
