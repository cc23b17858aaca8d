"""Resource servers follow a real broker: a revocation arrives, and a broker that is held or killed is noticed."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path

from broker.client import Client, KeyIdentity
from broker.core.errors import Code
from broker.verifier import IntrospectingVerifier, Verifier
from tests.support.refusals import refusal
from tests.support.running_broker import TICKETS, RunningBroker
from tests.support.until import until

SECONDS = 60.0


async def settled(ask: Callable[[], object], expected: object) -> None:
    """Wait until asking gives what it must."""
    deadline = time.monotonic() + SECONDS
    while (said := ask()) != expected:
        assert time.monotonic() < deadline, (said, expected)
        await asyncio.sleep(0.02)


async def refused_with(verifier: Verifier, token: str, code: Code | None) -> None:
    """Wait until a token is judged so."""
    deadline = time.monotonic() + SECONDS
    while (said := await refusal(verifier, token)) is not code:
        assert time.monotonic() < deadline, said
        await asyncio.sleep(0.02)


async def test_a_service_follows_a_broker_through_its_life(tmp_path: Path) -> None:
    """By the stream; held, killed and started again; a token in use ends, and the next process begins with the view."""
    broker = RunningBroker(tmp_path)
    broker.initialise()
    broker.start()
    alpha, gateway, operator = broker.agent("alpha"), broker.agent("gateway"), broker.home / "operator.pem"
    identity = KeyIdentity.from_file("gateway", gateway)
    keep = tmp_path / "view.json"
    async with (
        Client(broker.issuer, identity=KeyIdentity.from_file("alpha", alpha)) as agent,
        Client(broker.issuer, identity=KeyIdentity.from_file("operator", operator)) as acting,
        Client(broker.issuer, identity=identity) as client,
        IntrospectingVerifier(broker.issuer, TICKETS, credentials=client) as asking,
    ):
        token = (await agent.token(TICKETS, ["tickets:read"])).access_token
        async with Verifier(broker.issuer, TICKETS, credentials=client, max_staleness=3, keep=keep) as verifier:
            await refused_with(verifier, token, None)
            assert await refusal(asking, token) is None
            await settled(lambda: verifier.following().streaming, expected=True)
            ended: list[Code] = []
            verifier.watch(await verifier.verify(token), ended.append)
            await asyncio.to_thread(broker.command, "revoke", "--agent", "alpha", "--reason", "test")
            await settled(lambda: ended, expected=[Code.TOKEN_REVOKED])
            assert await refusal(verifier, token) is Code.TOKEN_REVOKED
            assert await refusal(asking, token) is Code.TOKEN_REVOKED
            other = (await acting.token(f"{broker.issuer}/v1", ["operator:read"])).access_token
            assert await refusal(verifier, other) is Code.TOKEN_AUDIENCE
            assert verifier.following().refused == {}
            assert broker.process is not None
            broker.process.send_signal(signal.SIGSTOP)
            await settled(lambda: verifier.following().fresh, expected=False)
            broker.process.send_signal(signal.SIGCONT)
            await settled(lambda: (verifier.following().fresh, verifier.following().streaming), expected=(True, True))
            await asyncio.to_thread(broker.kill)
            await settled(lambda: verifier.following().fresh, expected=False)
            await asyncio.to_thread(broker.start)
            await settled(lambda: (verifier.following().fresh, verifier.following().streaming), expected=(True, True))
            epoch = verifier.epoch
        again = Verifier(broker.issuer, TICKETS, credentials=client, keep=keep)
        await again.start()
        await until(lambda: again.epoch == epoch)
        assert await refusal(again, token) is Code.TOKEN_REVOKED
        await again.close()
    assert broker.stop() == 0
