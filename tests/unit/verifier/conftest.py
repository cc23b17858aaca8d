"""A broker, and a verifier of the ticket system that polls it when the test says so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from broker.verifier import Verifier
from tests.support.fake_broker import FakeBroker
from tests.support.running_broker import free_port
from tests.support.virtual_time import VirtualTime

AUDIENCE = "https://tickets.internal"


@pytest.fixture
def time() -> VirtualTime:
    """Time that the test moves."""
    return VirtualTime(flows=False)


@pytest.fixture
async def broker(time: VirtualTime) -> AsyncIterator[FakeBroker]:
    """A running broker."""
    fake = FakeBroker(lambda: time.wall)
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
def own_token(broker: FakeBroker) -> Callable[[], Awaitable[str]]:
    """How the ticket system gets its token for the broker's API."""

    async def token() -> str:
        return broker.mint(aud=f"{broker.url}/v1", scopes=("revocations:read",), client_id="tickets")

    return token


@pytest.fixture
async def verifier(
    broker: FakeBroker, time: VirtualTime, own_token: Callable[[], Awaitable[str]]
) -> AsyncIterator[Verifier]:
    """Has polled once."""
    made = Verifier(broker.url, AUDIENCE, credentials=own_token, timing=time.timing())
    await made.poll()
    yield made
    await made.close()


@pytest.fixture
def unused_port() -> int:
    """A port of this machine that nothing listens on."""
    return free_port()
