"""Tokens are asked for once, kept, renewed in time, and never handed out when they are nearly over."""

import asyncio
import json
import pickle

import pytest

from broker.client.cache import TokenCache
from broker.client.errors import TokenRefused, TokenUnavailable
from broker.client.token import Token, Want, want
from broker.core.errors import Code, Malformed
from broker.core.secret import Secret
from tests.support.virtual_time import VirtualTime

WANT = Want(audience="https://tickets.internal", scopes=("tickets:read",))
LIFE = 300


class Broker:
    """Gives numbered tokens when the test lets it, or fails as the test says."""

    def __init__(self, time: VirtualTime) -> None:
        self.asked: list[Want] = []
        self.open = asyncio.Event()
        self.open.set()
        self.failure: Exception | None = None
        self.life = LIFE
        self._time = time

    async def obtain(self, wanted: Want) -> Token:
        self.asked.append(wanted)
        number, asked_at = len(self.asked), self._time.elapsed
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return Token(
            secret=Secret(f"token-{number}"),
            token_type="Bearer",
            want=wanted,
            scopes=wanted.scopes,
            expires_in=self.life,
            asked_at=asked_at,
        )


@pytest.fixture
def time() -> VirtualTime:
    """Time that the test moves."""
    return VirtualTime(flows=False)


@pytest.fixture
def broker(time: VirtualTime) -> Broker:
    """A running broker."""
    return Broker(time)


@pytest.fixture
def cache(time: VirtualTime, broker: Broker) -> TokenCache:
    """A cache of three tokens."""
    return TokenCache(broker.obtain, time.timing(), size=3)


async def settle() -> None:
    """Let everything that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def text(cache: TokenCache, wanted: Want = WANT) -> str:
    """The text of the token that the cache hands out."""
    return (await cache.get(wanted)).access_token


async def test_a_token_is_asked_for_once(cache: TokenCache, broker: Broker) -> None:
    """While it is good, the same token is handed out."""
    assert [await text(cache) for _ in range(3)] == ["token-1"] * 3
    assert len(broker.asked) == 1


async def test_a_hundred_waiters_cause_one_request(cache: TokenCache, broker: Broker) -> None:
    """All of them get what it brings."""
    broker.open.clear()
    waiters = [asyncio.ensure_future(text(cache)) for _ in range(100)]
    await settle()
    broker.open.set()
    assert set(await asyncio.gather(*waiters)) == {"token-1"}
    assert len(broker.asked) == 1


async def test_different_wants_do_not_share(cache: TokenCache, broker: Broker) -> None:
    """Another scope, audience or task is another token."""
    wants = [WANT, want(WANT.audience, (), None), want(WANT.audience, WANT.scopes, "T-1")]
    assert len({await text(cache, wanted) for wanted in wants}) == 3


async def test_a_cancelled_waiter_disturbs_nobody(cache: TokenCache, broker: Broker) -> None:
    """Not even if it was the one that started the request."""
    broker.open.clear()
    first, second = asyncio.ensure_future(text(cache)), asyncio.ensure_future(text(cache))
    await settle()
    first.cancel()
    await settle()
    assert first.cancelled()
    broker.open.set()
    assert await second == "token-1"
    assert len(broker.asked) == 1


async def test_a_token_that_is_due_is_renewed_in_the_background(
    cache: TokenCache, broker: Broker, time: VirtualTime
) -> None:
    """Nobody waits for the renewal; the token at hand is handed out until the new one is there."""
    await text(cache)
    time.advance(LIFE * 0.66)
    await text(cache)
    assert len(broker.asked) == 1
    broker.open.clear()
    time.advance(LIFE * 0.15)
    assert [await text(cache) for _ in range(3)] == ["token-1"] * 3
    await settle()
    assert len(broker.asked) == 2
    broker.open.set()
    await settle()
    assert await text(cache) == "token-2"


async def test_a_failing_renewal_is_not_noticed_until_the_token_ends(
    cache: TokenCache, broker: Broker, time: VirtualTime
) -> None:
    """It is tried again at growing intervals, not at every call; at the end of the token the failure is raised."""
    await text(cache)
    broker.failure = TokenUnavailable("down")
    time.advance(LIFE * 0.81)
    for _ in range(50):
        assert await text(cache) == "token-1"
        await settle()
    assert len(broker.asked) == 2
    time.advance(2)
    assert await text(cache) == "token-1"
    await settle()
    assert len(broker.asked) == 3
    time.advance(LIFE * 0.18)
    with pytest.raises(TokenUnavailable):
        await text(cache)
    broker.failure = None
    assert await text(cache) == "token-5"


async def test_a_failing_renewal_is_logged_without_secrets(
    cache: TokenCache, broker: Broker, time: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    """Once per outage, by resource; of an unexpected error only the type."""
    await text(cache)
    broker.failure = RuntimeError("canary")
    time.advance(LIFE * 0.8)
    for _ in range(3):
        assert await text(cache) == "token-1"
        await settle()
        time.advance(5)
    assert len(broker.asked) == 4
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "renewing a token for https://tickets.internal failed: RuntimeError"
    ]
    assert "token-1" not in caplog.text


async def test_a_refused_renewal_keeps_the_token_until_its_end(
    cache: TokenCache, broker: Broker, time: VirtualTime
) -> None:
    """The broker may refuse new tokens and let the old one live."""
    await text(cache)
    broker.failure = TokenRefused("invalid_target", Code.BLOCKED, "blocked")
    time.advance(LIFE * 0.9)
    assert await text(cache) == "token-1"
    await settle()
    time.advance(LIFE * 0.1)
    with pytest.raises(TokenRefused):
        await text(cache)


async def test_a_token_in_its_last_seconds_is_not_handed_out(
    cache: TokenCache, broker: Broker, time: VirtualTime
) -> None:
    """It would end on its way to the resource."""
    await text(cache)
    time.advance(LIFE - 4.9)
    assert await text(cache) == "token-2"


async def test_a_slow_answer_shortens_the_token(cache: TokenCache, broker: Broker, time: VirtualTime) -> None:
    """Its life counts from before it was asked for, so it is never thought longer than it is."""
    broker.open.clear()
    waiting = asyncio.ensure_future(text(cache))
    await settle()
    time.advance(LIFE - 10)
    broker.open.set()
    assert await waiting == "token-1"
    time.advance(6)
    assert await text(cache) == "token-2"


async def test_a_wall_clock_that_steps_changes_nothing(cache: TokenCache, broker: Broker, time: VirtualTime) -> None:
    """Lifetimes are durations."""
    await text(cache)
    time.wall -= 86_400
    assert await text(cache) == "token-1"
    time.wall += 10 * 86_400
    assert await text(cache) == "token-1"


async def test_failures_reach_all_who_wait_and_are_not_remembered(cache: TokenCache, broker: Broker) -> None:
    """The next call asks again."""
    broker.failure = TokenUnavailable("down")
    results = await asyncio.gather(text(cache), text(cache), return_exceptions=True)
    assert all(isinstance(result, TokenUnavailable) for result in results)
    broker.failure = None
    assert await text(cache) == "token-2"


async def test_a_dropped_token_is_replaced(cache: TokenCache, broker: Broker) -> None:
    """Only the token that was refused is forgotten: a second report of it does not cost the new one."""
    dead = await text(cache)
    cache.drop(dead)
    assert await text(cache) == "token-2"
    cache.drop(dead)
    assert await text(cache) == "token-2"


async def test_the_cache_is_bounded(cache: TokenCache, broker: Broker) -> None:
    """The least recently used token goes first."""
    wants = [want(WANT.audience, (), f"T-{n}") for n in range(3)]
    for wanted in wants:
        await text(cache, wanted)
    await text(cache, wants[0])
    await text(cache, WANT)
    asked = len(broker.asked)
    await text(cache, wants[0])
    assert len(broker.asked) == asked
    await text(cache, wants[1])
    assert len(broker.asked) == asked + 1


async def test_closing_ends_all_waiting(cache: TokenCache, broker: Broker) -> None:
    """Waiters get an error of ours, not a cancellation that they did not ask for; later calls get one, too."""
    broker.open.clear()
    waiting = asyncio.ensure_future(text(cache))
    await settle()
    await cache.close()
    with pytest.raises(TokenUnavailable):
        await waiting
    with pytest.raises(TokenUnavailable):
        await text(cache)


async def test_a_token_cannot_leak(cache: TokenCache) -> None:
    """It is not in its representation, cannot be pickled, and is not JSON."""
    token = await cache.get(WANT)
    assert "token-1" not in f"{token} {token!r} {vars(cache)!r}"
    with pytest.raises(TypeError):
        pickle.dumps(token)
    with pytest.raises(TypeError):
        json.dumps(token)


def test_scopes_are_a_set() -> None:
    """Order and repetition do not matter, and one text with spaces is understood as OAuth does."""
    assert want("a", ["y", "x", "y"], None) == want("a", "x  y", None)


def test_an_audience_is_needed() -> None:
    """There is no token for everything."""
    with pytest.raises(Malformed):
        want("", (), None)
