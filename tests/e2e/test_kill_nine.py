"""``kill -9`` at random moments under load: nothing that anybody received is lost, nothing revoked comes back."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import aiohttp
import pytest

from tests.support.client_load import Seen, accepted, active, load, read_key, recorded, token_for
from tests.support.running_broker import TICKETS, RunningBroker

KILLS = 50


@pytest.mark.timeout(900)
async def test_fifty_kills_under_load(tmp_path: Path) -> None:
    """After each kill: every token received is in the ledger, the ledger verifies, no revoked token is accepted."""
    broker = RunningBroker(tmp_path)
    broker.initialise()
    broker.start()
    key = read_key(broker.agent("alpha"))
    operator_key = read_key(broker.home / "operator.pem")
    seen = Seen()
    for _ in range(KILLS):
        async with aiohttp.ClientSession() as session:
            scope = "operator:read revocations:read revocations:write"
            audience = f"{broker.issuer}/v1"
            operator = await token_for(session, broker.issuer, "operator", operator_key, resource=audience, scope=scope)
        assert operator is not None
        async with load(broker, key, operator, seen):
            await asyncio.sleep(random.uniform(0.05, 0.6))
            broker.kill()
        await asyncio.to_thread(broker.start)
        missing = set(seen.tokens) - recorded(broker.ledger)
        assert not missing, f"received but not recorded: {sorted(missing)[:3]}"
        sample = [seen.tokens[jti] for jti in random.sample(seen.dead, min(20, len(seen.dead)))]
        assert not any(await active(broker, operator, sample)), "a revoked token came back"
        async with aiohttp.ClientSession() as session:
            fresh = await token_for(session, broker.issuer, "alpha", key, resource=TICKETS, scope="tickets:read")
        assert fresh is not None
        assert await accepted(broker, operator, [*sample, fresh]) == [fresh], "a verifier accepts a revoked token"
    assert broker.stop() == 0
    broker.command("ledger", "verify", "--file", str(broker.ledger))
    assert len(seen.tokens) > KILLS, "the load was too small to mean anything"
    assert seen.dead
