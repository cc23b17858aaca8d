"""Rules arrive by the stream, whatever is repeated, reordered, left out, forged or cut on the way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from broker.core.errors import Code
from broker.verifier import Verifier
from tests.support.fake_broker import JWKS, SNAPSHOT, SigningKey, answering
from tests.support.feeding_broker import ACKS, STREAM, FeedingBroker
from tests.support.refusals import refusal
from tests.support.until import until
from tests.support.virtual_time import VirtualTime

AUDIENCE = "https://tickets.internal"


@pytest.fixture
async def broker(time: VirtualTime) -> AsyncIterator[FeedingBroker]:
    """A broker with a stream."""
    fake = FeedingBroker(lambda: time.wall)
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def verifier(
    broker: FeedingBroker, time: VirtualTime, own_token: Callable[[], Awaitable[str]]
) -> AsyncIterator[Verifier]:
    """Follows the stream."""
    async with Verifier(broker.url, AUDIENCE, credentials=own_token, timing=time.timing()) as made:
        await until(lambda: len(broker.subscribers) == 1)
        await news(made, broker, time)
        yield made


async def news(verifier: Verifier, broker: FeedingBroker, time: VirtualTime) -> None:
    """A second passes, a heartbeat is sent, and all that was told before it has arrived."""
    time.advance(1)
    await broker.heartbeat()
    await until(lambda: verifier.view_age() < 1)


async def test_a_rule_counts_as_soon_as_it_is_told(verifier: Verifier, broker: FeedingBroker) -> None:
    """Without another question to the broker."""
    token, asked = broker.mint(), broker.asked[SNAPSHOT]
    await broker.tell_rules([broker.make(agent="triage")])
    await until(lambda: verifier.epoch == 1)
    assert await refusal(verifier, token) is Code.TOKEN_REVOKED
    assert await refusal(verifier, broker.mint()) is None
    assert broker.asked[SNAPSHOT] == asked
    assert verifier.following().streaming


async def test_while_the_stream_lives_nothing_is_polled(
    verifier: Verifier, broker: FeedingBroker, time: VirtualTime
) -> None:
    """And when it falls silent, snapshots are polled as before: what it does not say is learned all the same."""
    asked = broker.asked[SNAPSHOT]
    for _ in range(20):
        await news(verifier, broker, time)
    assert broker.asked[SNAPSHOT] == asked
    token = broker.mint()
    broker.make(agent="triage")
    while verifier.epoch == 0:
        time.advance(0.5)
        await asyncio.sleep(0.001)
    assert await refusal(verifier, token) is Code.TOKEN_REVOKED
    assert not verifier.following().streaming


async def test_repeated_and_reordered_rules_do_no_harm(
    verifier: Verifier, broker: FeedingBroker, time: VirtualTime
) -> None:
    """Each rule counts once, and none is lost."""
    rules = [broker.make(token=f"tok_other_{number}") for number in range(6)]
    await broker.tell_rules([rules[1], rules[0], rules[0], rules[3], rules[5], rules[2], rules[1]])
    await news(verifier, broker, time)
    assert verifier.epoch == 6
    token = broker.mint(jti="tok_other_4", epoch=0)
    assert await refusal(verifier, token) is Code.TOKEN_REVOKED
    assert verifier.following().refused == {}


async def test_a_missing_rule_is_noticed_by_the_next_statement(
    verifier: Verifier, broker: FeedingBroker, time: VirtualTime
) -> None:
    """By a heartbeat at the latest, which makes nothing younger then; a snapshot tells what is missing."""
    token, asked = broker.mint(), broker.asked[SNAPSHOT]
    broker.make(agent="triage")
    await news(verifier, broker, time)
    assert verifier.epoch == 1
    assert broker.asked[SNAPSHOT] == asked + 1
    assert await refusal(verifier, token) is Code.TOKEN_REVOKED


async def test_a_rule_that_is_not_durable_counts_and_can_be_withdrawn(
    verifier: Verifier, broker: FeedingBroker, time: VirtualTime
) -> None:
    """While it stands, nothing that it hits is good; the next heartbeat without it shows that it is gone."""
    await broker.tell_rules([broker.make(pending="p", agent="triage")])
    await until(lambda: verifier.following().pending == 1)
    assert await refusal(verifier, broker.mint(epoch=1_000)) is Code.TOKEN_REVOKED
    broker.rules.remove(["p"])
    await news(verifier, broker, time)
    assert await refusal(verifier, broker.mint()) is None


async def test_a_stream_that_ends_is_made_up_for_at_once(verifier: Verifier, broker: FeedingBroker) -> None:
    """It may have ended for a rule that kills the verifier's own token as well as those that it judges."""
    token = broker.mint()
    broker.make(everything=True)
    await broker.hang_up()
    await until(lambda: verifier.epoch == 1)
    assert await refusal(verifier, token) is Code.TOKEN_REVOKED


@pytest.mark.parametrize("resumed", [True, False])
async def test_a_cut_stream_is_taken_up_where_it_ended(
    verifier: Verifier, broker: FeedingBroker, time: VirtualTime, resumed: bool
) -> None:
    """The broker hears where that was; if it cannot go on from there, it begins with a snapshot."""
    await broker.tell_rules([broker.make(agent="other")])
    await until(lambda: verifier.epoch == 1)
    token = broker.mint()
    broker.faults[SNAPSHOT] = answering(503)
    await broker.hang_up()
    if not resumed:
        broker.make(agent="triage")
    while len(broker.resumed) == 1:
        time.advance(0.1)
        await asyncio.sleep(0.001)
    assert broker.resumed == [None, "1"]
    await until(lambda: bool(broker.subscribers))
    await news(verifier, broker, time)
    assert await refusal(verifier, token) is (None if resumed else Code.TOKEN_REVOKED)


async def test_a_stream_that_broke_is_taken_up_at_once_however_often_it_breaks(
    verifier: Verifier, broker: FeedingBroker, time: VirtualTime
) -> None:
    """Processes of the broker are killed and proxies lose patience: no reason to stay away from one that worked."""
    for breaks in range(1, 9):
        await until(lambda: len(broker.subscribers) == 1)
        await news(verifier, broker, time)
        await broker.die()
        await until(lambda: not broker.subscribers)
        broken = time.elapsed
        while len(broker.resumed) == breaks:
            time.advance(0.1)
            await asyncio.sleep(0.001)
        assert time.elapsed - broken < 2, breaks


@pytest.mark.parametrize("begins", [True, False])
async def test_a_process_that_stops_sends_everybody_to_the_next_one(
    broker: FeedingBroker, time: VirtualTime, own_token: Callable[[], Awaitable[str]], begins: bool
) -> None:
    """Another one listens at the same address, and is asked at once, whatever the one that stops advises."""
    stopping = answering(503, {"code": "stopping"}, {"Retry-After": "30"}, times=1)
    broker.faults[STREAM if begins else ACKS] = stopping
    async with Verifier(broker.url, AUDIENCE, credentials=own_token, timing=time.timing()):
        await until(lambda: bool(broker.subscribers) and bool(broker.acks))
    assert broker.asked[STREAM if begins else ACKS] >= 2


async def test_a_stream_whose_token_was_revoked_goes_on_with_a_new_one_at_once(
    broker: FeedingBroker, time: VirtualTime, own_token: Callable[[], Awaitable[str]]
) -> None:
    """The rule that killed the token has yet to be heard, and time stands still meanwhile."""
    broker.faults[STREAM] = answering(401, {"code": "token_revoked"}, times=1)
    async with Verifier(broker.url, AUDIENCE, credentials=own_token, timing=time.timing()):
        await until(lambda: bool(broker.subscribers))
    assert broker.asked[STREAM] == 2


async def test_a_key_rotation_in_the_middle_of_a_stream(
    verifier: Verifier, broker: FeedingBroker, time: VirtualTime
) -> None:
    """Statements with a new key make the keys be fetched; the stream goes on."""
    broker.key = SigningKey()
    broker.published.append(broker.key)
    asked = broker.asked[JWKS]
    await broker.tell_rules([broker.make(agent="other")])
    await news(verifier, broker, time)
    assert (verifier.epoch, broker.asked[JWKS], len(broker.resumed)) == (1, asked + 1, 1)
    assert await refusal(verifier, broker.mint()) is None


FORGERIES: dict[str, Callable[[FeedingBroker], tuple[str, str]]] = {
    "of a key that is not published": lambda broker: ("heartbeat", broker.heartbeat_token(key=SigningKey())),
    "of another type": lambda broker: ("heartbeat", broker.heartbeat_token(typ="broker-rules+jwt")),
    "a token": lambda broker: ("rule", broker.mint()),
    "of another issuer": lambda broker: ("heartbeat", broker.heartbeat_token(iss="https://evil.example")),
    "with an unknown member": lambda broker: ("heartbeat", broker.heartbeat_token(weather="fine")),
    "with an unknown selector": lambda broker: (
        "rule",
        broker.rule_token(broker.make(agent="x"), selector={"planet": "mars"}),
    ),
    "with a selector of nothing": lambda broker: ("rule", broker.rule_token(broker.make(agent="x"), selector={})),
    "expired": lambda broker: ("heartbeat", broker.heartbeat_token(iat=1, exp=2)),
    "of an hour to come": lambda broker: ("heartbeat", broker.heartbeat_token(iat=int(broker.now()) + 3_600)),
    "an event of an unknown kind": lambda broker: ("weather", broker.heartbeat_token()),
    "an event without a name": lambda broker: ("", broker.heartbeat_token()),
    "a snapshot that goes back": lambda broker: ("snapshot", broker.snapshot(iat=int(broker.now()) - 30)),
    "no text": lambda _: ("rule", "\xff"),
    "no statement": lambda _: ("rule", "{}"),
    "8 MiB": lambda _: ("rule", "x" * (8 * 1024 * 1024)),
    "9 MiB": lambda _: ("rule", "x" * (9 * 1024 * 1024)),
}


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_what_is_not_the_brokers_ends_the_stream_and_changes_nothing(
    verifier: Verifier, broker: FeedingBroker, time: VirtualTime, forgery: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted and logged; polling goes on meanwhile, and the stream is tried again."""
    name, token = FORGERIES[forgery](broker)
    age = verifier.view_age()
    with caplog.at_level(logging.WARNING, "broker.verifier"):
        await broker.tell(name, token)
        await until(lambda: sum(verifier.following().refused.values()) == 1)
    assert verifier.epoch == 0
    assert verifier.view_age() == age
    assert "refused" in caplog.text
    assert token[:40] not in caplog.text or len(token) < 40
    while len(broker.resumed) == 1:
        time.advance(0.1)
        await asyncio.sleep(0.001)
    assert await refusal(verifier, broker.mint()) is None


@pytest.mark.parametrize(
    "answer",
    [
        answering(404),
        answering(406),
        answering(500),
        answering(302, headers={"Location": "/elsewhere"}),
        answering(200, b"event: heartbeat\ndata: x\n\n", {"Content-Type": "text/html"}),
        answering(200, b"", {"Content-Type": "text/event-stream"}),
    ],
)
async def test_where_there_is_no_stream_rules_are_polled(
    broker: FeedingBroker, time: VirtualTime, own_token: Callable[[], Awaitable[str]], answer: object
) -> None:
    """A proxy in between may not let it pass; it is asked for again ever more rarely."""
    broker.faults[STREAM] = answer  # type: ignore[assignment]
    async with Verifier(broker.url, AUDIENCE, credentials=own_token, timing=time.timing()) as verifier:
        token = broker.mint()
        for second in range(1, 200):
            broker.make(token=f"tok_other_{second}")
            time.advance(1)
            await until(lambda epoch=second: verifier.epoch == epoch)  # type: ignore[misc]
            await until(lambda: time.sleepers >= 3)
        assert await refusal(verifier, token) is None
        assert not verifier.following().streaming
        assert broker.asked[STREAM] < 60


async def test_a_snapshot_that_the_stream_overtakes_is_no_attack(
    verifier: Verifier, broker: FeedingBroker, time: VirtualTime
) -> None:
    """It was asked for before the rule was made: what is known by now stays, and nothing is counted as refused."""

    async def overtaken(_request: web.Request) -> web.Response:
        older = broker.snapshot()
        await broker.tell_rules([broker.make(agent="triage")])
        await until(lambda: verifier.epoch == 1)
        return web.Response(body=older)

    token = broker.mint()
    broker.faults[SNAPSHOT] = overtaken
    await verifier.poll()
    assert verifier.epoch == 1
    assert await refusal(verifier, token) is Code.TOKEN_REVOKED
    assert verifier.following().refused == {}


async def test_a_stream_that_is_held_back_is_left(
    broker: FeedingBroker, time: VirtualTime, own_token: Callable[[], Awaitable[str]]
) -> None:
    """A proxy that buffers, or a peer that sends a byte at a time, is found by what does not arrive."""
    broker.greets = False
    settings = {"poll": 0.05, "max_staleness": 0.5}
    async with Verifier(broker.url, AUDIENCE, credentials=own_token, timing=time.timing(), **settings):  # type: ignore[arg-type]
        await until(lambda: bool(broker.subscribers))
        while len(broker.resumed) == 1:
            await broker.write(b":")
            time.advance(0.01)
            await asyncio.sleep(0.01)


async def test_old_statements_again_and_again_do_not_hold_a_stream(
    broker: FeedingBroker, time: VirtualTime, own_token: Callable[[], Awaitable[str]]
) -> None:
    """Whoever repeats what was said keeps nobody from looking elsewhere, and makes nothing younger."""
    broker.greets = False
    settings = {"poll": 0.05, "max_staleness": 0.5}
    async with Verifier(broker.url, AUDIENCE, credentials=own_token, timing=time.timing(), **settings) as verifier:  # type: ignore[arg-type]
        await until(lambda: bool(broker.subscribers))
        snapshot, heartbeat = broker.snapshot(), broker.heartbeat_token()
        while len(broker.resumed) == 1:
            await broker.tell("snapshot", snapshot)
            await broker.tell("heartbeat", heartbeat)
            await asyncio.sleep(0.01)
            time.advance(0.01)
        assert verifier.epoch == 0


async def test_a_storm_of_rules_is_taken_in_order(verifier: Verifier, broker: FeedingBroker, time: VirtualTime) -> None:
    """Thousands in one piece; no snapshot is needed for them, and requests are answered meanwhile."""
    asked = broker.asked[SNAPSHOT]
    rules = [broker.make(token=f"tok_other_{number}") for number in range(2_000)]
    storm = b"".join(f"event: rule\ndata: {broker.rule_token(rule)}\n\n".encode() for rule in rules)
    await broker.write(storm)
    await until(lambda: verifier.epoch == 2_000)
    assert broker.asked[SNAPSHOT] == asked


async def test_a_broker_that_stops_answering_is_not_believed_for_longer_than_the_bound(
    verifier: Verifier, broker: FeedingBroker, time: VirtualTime
) -> None:
    """Connections stay open and nothing comes: the view grows old, and every token is refused."""
    held = asyncio.Event()

    async def hang(_request: web.Request) -> None:
        await held.wait()

    broker.faults[SNAPSHOT] = hang
    token = broker.mint()
    time.advance(9)
    assert await refusal(verifier, token) is None
    time.advance(2)
    assert await refusal(verifier, token) is Code.VIEW_STALE
    held.set()
    await news(verifier, broker, time)
    assert await refusal(verifier, token) is None


@pytest.mark.parametrize("step", [-3_600.0, 3_600.0])
async def test_a_wall_clock_that_is_set_wrong_accepts_nothing_that_is_old(
    verifier: Verifier, broker: FeedingBroker, time: VirtualTime, step: float
) -> None:
    """Statements look too old, or to come; tokens are refused until the clock is right again."""
    token = broker.mint(exp=int(time.wall) + 7_200)
    broker.now = lambda: time.wall - step
    time.wall += step
    await broker.heartbeat()
    time.advance(11)
    await broker.heartbeat()
    await asyncio.sleep(0.05)
    assert await refusal(verifier, token) is not None
    assert verifier.epoch == 0


async def test_its_own_token_that_ends_is_replaced(
    broker: FeedingBroker, time: VirtualTime, own_token: Callable[[], Awaitable[str]]
) -> None:
    """A stream that is not allowed with one token is asked for with the next."""
    broker.faults[STREAM] = answering(401, times=1)
    async with Verifier(broker.url, AUDIENCE, credentials=own_token, timing=time.timing()) as verifier:
        while not broker.subscribers:
            time.advance(0.1)
            await asyncio.sleep(0.001)
        await news(verifier, broker, time)
        assert verifier.following().streaming


async def test_closing_in_the_middle_of_anything_leaves_nothing_behind(
    broker: FeedingBroker, time: VirtualTime, own_token: Callable[[], Awaitable[str]]
) -> None:
    """Whatever is under way is cancelled; nothing is accepted afterwards."""
    before = asyncio.all_tasks()
    for moment in range(12):
        verifier = Verifier(broker.url, AUDIENCE, credentials=own_token, timing=time.timing())
        starting = asyncio.ensure_future(verifier.start())
        for _ in range(moment * 3):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await verifier.close()
        assert await refusal(verifier, broker.mint()) is not None
    await broker.hang_up()
    await until(lambda: not {task for task in asyncio.all_tasks() - before if "verifier" in repr(task.get_coro())})
