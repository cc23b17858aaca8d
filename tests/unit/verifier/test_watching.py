"""Tokens in use end at once when they are good no more, and the others go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from broker.core.access_token import VerifiedToken
from broker.core.claims import AccessClaims
from broker.core.errors import BrokerError, Code
from broker.core.jwk import KeySet
from broker.core.rules import Rule, RuleIndex
from broker.core.selector import Selector
from broker.verifier import Verified, Verifier
from broker.verifier.aiohttp import enduring
from broker.verifier.watching import Watches
from tests.support.fake_broker import SNAPSHOT, SigningKey, answering
from tests.support.feeding_broker import FeedingBroker
from tests.support.until import until
from tests.support.virtual_time import START, VirtualTime

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
        yield made


async def used(verifier: Verifier, broker: FeedingBroker, ended: list[Code], **claims: Any) -> Verified:  # noqa: ANN401 - claims
    """A token that is in use."""
    verified = await verifier.verify(broker.mint(**claims))
    verifier.watch(verified, ended.append)
    return verified


async def test_a_revocation_ends_what_it_hits_and_nothing_else(verifier: Verifier, broker: FeedingBroker) -> None:
    """Each is told once, and is not watched any more."""
    hit: list[Code] = []
    missed: list[Code] = []
    await used(verifier, broker, hit, task="task_1")
    await used(verifier, broker, hit, task="task_2", path=("task_1",))
    await used(verifier, broker, missed, task="task_3")
    await used(verifier, broker, missed, task="task_1", epoch=1)
    await broker.tell_rules([broker.make(task="task_1", agent="triage"), broker.make(task="task_1", agent="other")])
    await until(lambda: len(hit) == 2)
    assert set(hit) == {Code.TOKEN_REVOKED}
    assert missed == []
    assert verifier.following().watched == 2
    await broker.tell_rules([broker.make(everything=True)])
    await until(lambda: len(missed) == 2)
    assert len(hit) == 2


async def test_a_snapshot_ends_tokens_as_well(verifier: Verifier, broker: FeedingBroker, time: VirtualTime) -> None:
    """Whichever way the rule comes."""
    ended: list[Code] = []
    await used(verifier, broker, ended)
    broker.make(agent="triage")
    time.advance(1)
    await verifier.poll()
    assert ended == [Code.TOKEN_REVOKED]


async def test_tokens_end_when_they_expire(verifier: Verifier, broker: FeedingBroker, time: VirtualTime) -> None:
    """By the clock, to the second; the others are still watched."""
    short: list[Code] = []
    long: list[Code] = []
    await used(verifier, broker, short, exp=int(time.wall) + 3)
    await used(verifier, broker, long, exp=int(time.wall) + 500)
    for _ in range(3):
        assert short == []
        await asyncio.sleep(0.01)
        time.advance(1)
    await until(lambda: short == [Code.TOKEN_EXPIRED])
    assert long == []


async def test_tokens_end_when_nobody_can_say_any_more(
    verifier: Verifier, broker: FeedingBroker, time: VirtualTime
) -> None:
    """At the same bound at which new requests are refused."""
    ended: list[Code] = []
    await used(verifier, broker, ended)
    broker.faults[SNAPSHOT] = answering(503)
    for _ in range(9):
        time.advance(1)
        await asyncio.sleep(0.01)
    assert ended == []
    while not ended:
        time.advance(1)
        await asyncio.sleep(0.01)
    assert ended == [Code.VIEW_STALE]


async def test_tokens_end_with_the_key_that_signed_them(
    verifier: Verifier, broker: FeedingBroker, time: VirtualTime
) -> None:
    """A stolen key that is not published any more is good for nothing that goes on, either."""
    ended: list[Code] = []
    await used(verifier, broker, ended)
    broker.key = SigningKey()
    broker.published = [broker.key]
    await broker.heartbeat(iat=int(time.wall) + 1)
    while not ended:
        time.advance(0.5)
        await asyncio.sleep(0.01)
    assert ended == [Code.TOKEN_INVALID]


async def test_closing_ends_everything(verifier: Verifier, broker: FeedingBroker) -> None:
    """Nobody would hear of revocations any more."""
    ended: list[Code] = []
    await used(verifier, broker, ended)
    await verifier.close()
    assert ended == [Code.VIEW_STALE]


async def test_only_good_tokens_are_watched(verifier: Verifier, broker: FeedingBroker, time: VirtualTime) -> None:
    """One that was revoked between two steps of its user is noticed when it is to be watched."""
    ended: list[Code] = []
    verified = await verifier.verify(broker.mint())
    await broker.tell_rules([broker.make(agent="triage")])
    await until(lambda: verifier.epoch == 1)
    with pytest.raises(BrokerError) as caught:
        verifier.watch(verified, ended.append)
    assert caught.value.code is Code.TOKEN_REVOKED
    short = await verifier.verify(broker.mint(exp=int(time.wall) + 1))
    time.advance(1)
    with pytest.raises(BrokerError) as caught:
        verifier.watch(short, ended.append)
    assert caught.value.code is Code.TOKEN_EXPIRED
    assert (ended, verifier.following().watched) == ([], 0)


async def test_what_goes_wrong_with_one_does_not_keep_others(verifier: Verifier, broker: FeedingBroker) -> None:
    """One callback raises, one stops another, one watches anew."""
    ended: list[Code] = []
    verified = await verifier.verify(broker.mint())

    def wrong(_code: Code) -> None:
        raise RuntimeError("canary-secret")

    verifier.watch(verified, wrong)
    stopped = verifier.watch(verified, ended.append)
    stopped.stop()
    stopped.stop()
    verifier.watch(verified, ended.append)
    await broker.tell_rules([broker.make(agent="triage")])
    await until(lambda: ended == [Code.TOKEN_REVOKED])
    assert verifier.following().watched == 0


async def test_a_body_is_cancelled_with_its_token(verifier: Verifier, broker: FeedingBroker) -> None:
    """And hears why; other cancellations and time-outs stay what they are."""
    verified = await verifier.verify(broker.mint())
    begun = asyncio.Event()

    async def body() -> None:
        async with verifier.while_good(verified):
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(body())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(TimeoutError):
        async with verifier.while_good(verified):
            raise TimeoutError
    begun.clear()
    task = asyncio.ensure_future(body())
    await begun.wait()
    await broker.tell_rules([broker.make(agent="triage")])
    with pytest.raises(BrokerError) as caught:
        await task
    assert caught.value.code is Code.TOKEN_REVOKED
    assert verifier.following().watched == 0


async def test_aiohttp_handlers_that_go_on_end(
    broker: FeedingBroker, time: VirtualTime, own_token: Callable[[], Awaitable[str]]
) -> None:
    """A stream is cut, a WebSocket closed, and who has not been answered yet is refused."""
    async with Verifier(broker.url, AUDIENCE, credentials=own_token, timing=time.timing()) as verifier:
        await until(lambda: len(broker.subscribers) == 1)
        waiting = asyncio.Event()

        @enduring(verifier, "tickets:read")
        async def stream(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"one")
            await asyncio.Event().wait()
            return response

        @enduring(verifier)
        async def slow(_request: web.Request) -> web.StreamResponse:
            waiting.set()
            await asyncio.Event().wait()
            return web.Response()

        @enduring(verifier)
        async def socket(request: web.Request) -> web.StreamResponse:
            response = web.WebSocketResponse()
            await response.prepare(request)
            async for _ in response:
                pass
            return response

        app = web.Application()
        app.router.add_get("/stream", stream)
        app.router.add_get("/slow", slow)
        app.router.add_get("/socket", socket)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        headers = {"Authorization": f"Bearer {broker.mint()}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            refused = asyncio.ensure_future(session.get(f"{url}/slow"))
            await waiting.wait()
            opened = await session.get(f"{url}/stream")
            assert await opened.content.read(3) == b"one"
            talking = await session.ws_connect(f"{url}/socket")
            await broker.tell_rules([broker.make(agent="triage")])
            with pytest.raises(aiohttp.ClientPayloadError):
                await opened.content.read()
            assert (await talking.receive()).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE)
            answer = await refused
            assert answer.status == 401
            assert (await answer.json())["code"] == "token_revoked"
            await talking.close()
            opened.close()
        await runner.cleanup()


# --- by any rules


FIELDS = st.fixed_dictionaries(
    {}, optional={"agent": st.sampled_from("ab"), "task": st.sampled_from("st"), "role": st.sampled_from("rq")}
)


def token(number: int, agent: str, task: str, role: str, epoch: int) -> VerifiedToken:
    """A token in use."""
    claims = AccessClaims(
        iss="i",
        sub=agent,
        aud="a",
        client_id=agent,
        iat=0,
        exp=int(START) + 1_000,
        jti=f"tok_{number}",
        scopes=("s",),
        epoch=epoch,
        task=task,
        role=role,
        tier="t",
        issuer="registered",
    )
    return VerifiedToken(claims, "kid", claims.facts("kid"))


@given(
    tokens=st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from("st"), st.sampled_from("rq"), st.integers(0, 5)), max_size=12
    ),
    selectors=st.lists(FIELDS, min_size=1, max_size=5),
    numbers=st.permutations(range(1, 6)),
)
def test_a_rule_ends_exactly_what_it_kills(
    tokens: list[tuple[str, str, str, int]], selectors: list[dict[str, str]], numbers: list[int]
) -> None:
    """The index of tokens by facts agrees with the index of rules that every check uses."""

    async def judge() -> None:
        watches = Watches(keys=lambda: KeySet(()), left=lambda: 1.0, timing=VirtualTime(flows=False).timing())
        ended: set[str] = set()
        watched = [token(number, *parts) for number, parts in enumerate(tokens)]
        for one in watched:
            watches.add(one, lambda _code, jti=one.claims.jti: ended.add(jti))  # type: ignore[misc]
        index = RuleIndex()
        for number, fields in zip(numbers, selectors, strict=False):
            selector = Selector(**fields) if fields else Selector(everything=True)  # type: ignore[arg-type]
            rule = Rule(f"rule_{number}", selector, number, 0.0, "", "")
            index.add(rule)
            watches.told([rule])
        killed = {one.claims.jti for one in watched if index.killer(one.facts, one.claims.epoch) is not None}
        assert ended == killed
        assert len(watches) == len(watched) - len(killed)
        await watches.close()

    asyncio.run(judge())
