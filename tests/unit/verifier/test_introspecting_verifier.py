"""Asking the broker about each token: the same answers as with a view, and nothing that strangers could abuse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from broker.client import DpopKey
from broker.core.errors import Code, Malformed
from broker.verifier import IntrospectingVerifier
from tests.support.fake_broker import Fault, SigningKey, answering
from tests.support.feeding_broker import INTROSPECT, FeedingBroker
from tests.support.refusals import refusal
from tests.support.until import until
from tests.support.virtual_time import VirtualTime

AUDIENCE = "https://tickets.internal"
OwnToken = Callable[[], Awaitable[str]]


@pytest.fixture
async def broker(time: VirtualTime) -> AsyncIterator[FeedingBroker]:
    """A broker that can be asked about tokens."""
    fake = FeedingBroker(lambda: time.wall)
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def verifier(
    broker: FeedingBroker, time: VirtualTime, own_token: OwnToken
) -> AsyncIterator[IntrospectingVerifier]:
    """Asks each time."""
    async with IntrospectingVerifier(broker.url, AUDIENCE, credentials=own_token, timing=time.timing()) as made:
        yield made


async def test_a_revocation_counts_with_the_next_request(
    verifier: IntrospectingVerifier, broker: FeedingBroker
) -> None:
    """Nothing is followed and nothing is remembered."""
    token = broker.mint()
    verified = await verifier.verify(token, scopes="tickets:read")
    assert (verified.agent, verified.kid) == ("triage", broker.key.kid)
    broker.make(agent="triage")
    assert await refusal(verifier, token) is Code.TOKEN_REVOKED
    assert broker.asked[INTROSPECT] == 2


async def test_the_errors_are_those_of_a_view(
    verifier: IntrospectingVerifier, broker: FeedingBroker, time: VirtualTime
) -> None:
    """Audience, expiry, scopes and proofs are told apart."""
    key = DpopKey.generate()
    bound = broker.mint(jkt=key.thumbprint)
    assert await refusal(verifier, broker.mint(aud="https://other")) is Code.TOKEN_AUDIENCE
    assert await refusal(verifier, broker.mint(exp=int(time.wall))) is Code.TOKEN_EXPIRED
    assert await refusal(verifier, broker.mint(), scopes="tickets:write") is Code.INSUFFICIENT_SCOPE
    assert await refusal(verifier, bound) is Code.TOKEN_INVALID


async def test_strangers_cause_no_questions(verifier: IntrospectingVerifier, broker: FeedingBroker) -> None:
    """What the broker did not sign, or not for this resource, is refused here (law 10)."""
    for token in ("", "x", "x.y.z", broker.mint(key=SigningKey()), broker.mint(aud="https://other")):
        assert await refusal(verifier, token) is not None
    assert broker.asked[INTROSPECT] == 0


@pytest.mark.parametrize(
    "fault",
    [
        answering(500),
        answering(401),
        answering(429, headers={"Retry-After": "3"}),
        answering(200, b"no json"),
        answering(200, []),
        answering(200, {"active": "yes"}),
        answering(200, b"x" * 100_000),
        answering(302, headers={"Location": "/elsewhere"}),
    ],
)
async def test_no_answer_is_no_yes(verifier: IntrospectingVerifier, broker: FeedingBroker, fault: Fault) -> None:
    """The token may be good, but nobody says so."""
    broker.faults[INTROSPECT] = fault
    assert await refusal(verifier, broker.mint()) is Code.VIEW_STALE


@pytest.mark.parametrize("answer", [{"active": False}, {"active": True}, {"active": True, "jti": "tok_other"}])
async def test_an_answer_about_something_else_is_a_no(
    verifier: IntrospectingVerifier, broker: FeedingBroker, answer: dict[str, object]
) -> None:
    """The broker must say yes, of this token."""
    broker.faults[INTROSPECT] = answering(200, answer)
    assert await refusal(verifier, broker.mint()) is Code.TOKEN_REVOKED


async def test_remembering_has_its_price_and_its_end(
    broker: FeedingBroker, time: VirtualTime, own_token: OwnToken
) -> None:
    """A good answer counts for so long, from the moment before the question; expiry counts all the same."""
    async with IntrospectingVerifier(
        broker.url, AUDIENCE, credentials=own_token, remember=5, timing=time.timing()
    ) as verifier:
        token, short = broker.mint(), broker.mint(exp=int(time.wall) + 2)
        assert await refusal(verifier, token) is None
        assert await refusal(verifier, short) is None
        broker.make(agent="triage")
        time.advance(4)
        assert await refusal(verifier, token) is None
        assert await refusal(verifier, short) is Code.TOKEN_EXPIRED
        assert broker.asked[INTROSPECT] == 2
        time.wall -= 3_600
        time.advance(1)
        assert await refusal(verifier, token) is Code.TOKEN_REVOKED


async def test_a_flood_is_bounded(verifier: IntrospectingVerifier, broker: FeedingBroker) -> None:
    """Some are asked about, some wait, and for the rest there is no room: they are told to come back."""
    held, most, now = asyncio.Event(), 0, 0

    async def hold(_request: web.Request) -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await held.wait()
        now -= 1

    broker.faults[INTROSPECT] = hold
    flood = [asyncio.ensure_future(refusal(verifier, broker.mint())) for _ in range(400)]
    await until(lambda: any(one.done() for one in flood))
    held.set()
    codes = await asyncio.gather(*flood)
    assert codes.count(Code.VIEW_STALE) == 400 - 16 * 17
    assert codes.count(None) == 16 * 17
    assert most <= 16


async def test_whoever_is_cancelled_gives_the_place_back(
    verifier: IntrospectingVerifier, broker: FeedingBroker
) -> None:
    """Clients that go away do not use the room up."""
    held = asyncio.Event()

    async def hold(_request: web.Request) -> None:
        await held.wait()

    broker.faults[INTROSPECT] = hold
    for _ in range(3):
        flood = [asyncio.ensure_future(refusal(verifier, broker.mint())) for _ in range(300)]
        await until(lambda flood=flood: any(one.done() for one in flood))  # type: ignore[misc]
        for one in flood:
            one.cancel()
        await asyncio.gather(*flood, return_exceptions=True)
    held.set()
    assert await refusal(verifier, broker.mint()) is None


async def test_after_closing_nothing_is_accepted(broker: FeedingBroker, time: VirtualTime, own_token: OwnToken) -> None:
    """Not even what was remembered; settings that cannot work are refused."""
    verifier = IntrospectingVerifier(broker.url, AUDIENCE, credentials=own_token, remember=60, timing=time.timing())
    token = broker.mint()
    assert await refusal(verifier, token) is None
    await verifier.close()
    assert await refusal(verifier, token) is Code.VIEW_STALE
    for bad in (-1.0, 61.0):
        with pytest.raises(Malformed):
            IntrospectingVerifier(broker.url, AUDIENCE, credentials=own_token, remember=bad)
