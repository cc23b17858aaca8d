"""Several workers fill and tell status lists; each says of every token what introspection says."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import jwt
import pytest

from tests.e2e.test_workers import is_active, issued, operator_token, serving, until
from tests.support.client_load import read_key
from tests.support.running_broker import POLICY, RunningBroker
from tests.support.status_list_reader import status_of

_SCOPES = '      "tickets:comment": {tier: write}\n'
ROUNDS, TOKENS, ASKERS = 4, 6, 3


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    """Two workers that serve, and status lists for tickets."""
    assert _SCOPES in POLICY
    running = RunningBroker(tmp_path, POLICY.replace(_SCOPES, f"{_SCOPES}    status_list: true\n", 1), workers=2)
    running.initialise()
    running.start()
    until(lambda: len(serving(running)) == 2, "two workers do not serve")
    yield running
    running.kill()


async def revoke(broker: RunningBroker, operator: str, selector: dict[str, object]) -> None:
    """Make a rule over a connection of its own."""
    headers = {"Authorization": f"Bearer {operator}", "Idempotency-Key": str(uuid.uuid4())}
    body = {"selector": selector, "reason": "it was stolen"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{broker.issuer}/v1/revocations", json=body, headers=headers) as reply,
    ):
        assert reply.status == 201, await reply.text()


async def test_all_workers_tell_of_all_tokens(broker: RunningBroker) -> None:
    """Whoever issued a token, whoever revoked it, and whoever is asked."""
    key = read_key(broker.agent("alpha"))
    operator, tokens = await operator_token(broker), list[str]()

    async def compare() -> None:
        async with aiohttp.ClientSession() as http:
            for token in tokens:
                dead = await status_of(http, broker.issuer, token)
                assert dead != await is_active(http, broker, operator, token)

    for _ in range(ROUNDS):
        tokens += await asyncio.gather(*(issued(broker, key) for _ in range(TOKENS)))
        one = jwt.decode(tokens[-1], options={"verify_signature": False})
        await revoke(broker, operator, {"token": one["jti"]})
        await asyncio.gather(*(compare() for _ in range(ASKERS)))
    lists = {jwt.decode(token, options={"verify_signature": False})["status"]["status_list"]["uri"] for token in tokens}
    assert len(lists) == 2  # both have issued some
    await revoke(broker, operator, {"everything": True})
    operator = await operator_token(broker)
    tokens += [await issued(broker, key) for _ in range(TOKENS)]
    await asyncio.gather(*(compare() for _ in range(ASKERS)))
    async with aiohttp.ClientSession() as http:
        found = [await status_of(http, broker.issuer, token) for token in tokens]
    assert found == [1] * ROUNDS * TOKENS + [0] * TOKENS
