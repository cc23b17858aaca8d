"""The broker hears which rules are applied here, at once, and that this process is alive; or that it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from broker.core.errors import BrokerError, Code, Malformed
from broker.core.marks import mark_of
from broker.verifier import Verifier
from tests.support.fake_broker import MARKS_KEY, answering
from tests.support.feeding_broker import ACKS, FeedingBroker
from tests.support.until import until
from tests.support.virtual_time import VirtualTime

AUDIENCE = "https://tickets.internal"
OwnToken = Callable[[], Awaitable[str]]


@pytest.fixture
async def broker(time: VirtualTime) -> AsyncIterator[FeedingBroker]:
    """A broker that takes acknowledgements."""
    fake = FeedingBroker(lambda: time.wall)
    await fake.start()
    yield fake
    await fake.stop()


def told(broker: FeedingBroker, epoch: int) -> dict[str, object]:
    """What gateway 7 says at an epoch."""
    return {"verifier": "gw-7", "epoch": epoch, "mark": mark_of(MARKS_KEY, epoch), "max_age": 20.0}


async def test_each_epoch_is_acknowledged_at_once(
    broker: FeedingBroker, time: VirtualTime, own_token: OwnToken
) -> None:
    """With the mark that only who was told of it can know; otherwise there is a sign of life every five seconds."""
    async with Verifier(broker.url, AUDIENCE, credentials=own_token, name="gw-7", timing=time.timing()) as verifier:
        await until(lambda: broker.acks == [told(broker, 0)] and bool(broker.subscribers))
        await broker.tell_rules([broker.make(agent="triage")])
        await until(lambda: broker.acks[-1] == told(broker, 1))
        count = len(broker.acks)
        while len(broker.acks) < count + 2:
            time.advance(1)
            await asyncio.sleep(0.005)
        assert broker.acks[count:] == [told(broker, 1)] * 2
        assert verifier.epoch == 1


async def test_signs_of_life_are_no_more_than_that(
    broker: FeedingBroker, time: VirtualTime, own_token: OwnToken
) -> None:
    """However often the broker says that nothing has changed."""
    async with Verifier(broker.url, AUDIENCE, credentials=own_token, timing=time.timing()) as verifier:
        await until(lambda: bool(broker.subscribers) and bool(broker.acks))
        for _ in range(30):
            time.advance(1)
            await broker.heartbeat()
            await until(lambda: verifier.view_age() < 1)
        assert len(broker.acks) <= 8


async def test_an_epoch_is_acknowledged_after_it_counts(
    broker: FeedingBroker, time: VirtualTime, own_token: OwnToken
) -> None:
    """Never before: when the broker hears of it, the token is refused here."""
    refused: list[Code] = []
    token = broker.mint()

    async def look(_request: web.Request) -> None:
        if verifier.epoch == 1:
            with pytest.raises(BrokerError) as caught:
                await verifier.verify(token)
            refused.append(caught.value.code)

    broker.faults[ACKS] = look
    verifier = Verifier(broker.url, AUDIENCE, credentials=own_token, timing=time.timing())
    async with verifier:
        await until(lambda: bool(broker.subscribers))
        await broker.tell_rules([broker.make(agent="triage")])
        await until(lambda: bool(refused))
    assert set(refused) == {Code.TOKEN_REVOKED}


async def test_a_storm_of_rules_is_not_a_storm_of_acknowledgements(
    broker: FeedingBroker, time: VirtualTime, own_token: OwnToken
) -> None:
    """Only the newest is told when the one before has arrived."""
    async with Verifier(broker.url, AUDIENCE, credentials=own_token, timing=time.timing()):
        await until(lambda: bool(broker.subscribers))
        rules = [broker.make(token=f"tok_other_{number}") for number in range(500)]
        await broker.write(b"".join(f"event: rule\ndata: {broker.rule_token(rule)}\n\n".encode() for rule in rules))
        await until(lambda: bool(broker.acks) and broker.acks[-1]["epoch"] == 500)
        assert len(broker.acks) < 100


async def test_who_closes_says_so_and_accepts_nothing_any_more(
    broker: FeedingBroker, time: VirtualTime, own_token: OwnToken
) -> None:
    """In this order: once the broker hears of it, nobody is waited for here."""
    refused: list[Code] = []
    token = broker.mint()
    verifier = Verifier(broker.url, AUDIENCE, credentials=own_token, name="gw-7", timing=time.timing())
    await verifier.start()
    await verifier.verify(token)
    await until(lambda: bool(broker.acks) and bool(broker.subscribers))

    async def look(_request: web.Request) -> None:
        with pytest.raises(BrokerError) as caught:
            await verifier.verify(token)
        refused.append(caught.value.code)

    broker.faults[ACKS] = look
    await verifier.close()
    assert broker.acks[-1] == {"verifier": "gw-7", "leaving": True}
    assert set(refused) == {Code.VIEW_STALE}


@pytest.mark.parametrize("answer", [answering(404), answering(429), answering(500), answering(400), answering(401)])
async def test_what_becomes_of_acknowledgements_harms_nothing(
    broker: FeedingBroker, time: VirtualTime, own_token: OwnToken, answer: object
) -> None:
    """Tokens are judged as before; it is tried again, as rarely as signs of life are sent."""
    broker.faults[ACKS] = answer  # type: ignore[assignment]
    async with Verifier(broker.url, AUDIENCE, credentials=own_token, timing=time.timing()) as verifier:
        await until(lambda: bool(broker.subscribers))
        for _ in range(60):
            time.advance(1)
            await broker.heartbeat()
            await until(lambda: verifier.view_age() < 1)
            await verifier.verify(broker.mint())
        assert 2 <= broker.asked[ACKS] <= 60


async def test_who_starts_is_known_before_it_accepts(
    broker: FeedingBroker, time: VirtualTime, own_token: OwnToken
) -> None:
    """Else a rule could be called applied while it accepts by the rules of before; if it cannot be told, it starts."""
    async with Verifier(broker.url, AUDIENCE, credentials=own_token, timing=time.timing()):
        assert broker.acks
    broker.faults[ACKS] = answering(503)
    async with Verifier(broker.url, AUDIENCE, credentials=own_token, timing=time.timing()) as verifier:
        await verifier.verify(broker.mint())


async def test_a_broker_that_hangs_does_not_keep_a_verifier_from_closing(
    broker: FeedingBroker, time: VirtualTime, own_token: OwnToken
) -> None:
    """A second is enough to say good-bye."""
    held = asyncio.Event()

    async def hang(_request: web.Request) -> None:
        await held.wait()

    verifier = Verifier(broker.url, AUDIENCE, credentials=own_token, timing=time.timing())
    await verifier.start()
    broker.faults[ACKS] = hang
    await asyncio.wait_for(verifier.close(), 30)
    held.set()


async def test_each_process_has_a_name_of_its_own(broker: FeedingBroker, own_token: OwnToken) -> None:
    """Unless it is given one, which must be one that the broker takes."""
    names = {Verifier(broker.url, AUDIENCE, credentials=own_token).name for _ in range(5)}
    assert len(names) == 5
    for bad in ("", "a b", "é", "x" * 65, "a/b", "a\n"):
        with pytest.raises(Malformed):
            Verifier(broker.url, AUDIENCE, credentials=own_token, name=bad)
