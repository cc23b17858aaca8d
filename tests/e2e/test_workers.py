"""Several workers on one ledger: what one does is law for all, and what happens to one is nobody's loss."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from broker.client import Client, KeyIdentity
from broker.client.dpop import DpopKey
from broker.core.errors import Code
from broker.verifier import Verifier
from broker.verifier.verifier import FOLLOWED_SECONDS
from tests.support.client_load import LOST, Seen, active, load, read_key, recorded, token_for
from tests.support.locked_ledger import locked
from tests.support.refusals import refusal
from tests.support.running_broker import TICKETS, RunningBroker, free_port

PATIENCE = 60.0
KILLS = 5
OPERATING = "operator:read revocations:read revocations:write policy:write"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    """Two workers that serve; whatever runs at the end is killed, and its workers end with it."""
    running = RunningBroker(tmp_path, workers=2)
    running.initialise()
    running.metrics = free_port()
    text = running.config.read_text()
    running.config.write_text(text.replace("[listen]", f'[listen]\nmetrics = "127.0.0.1:{running.metrics}"', 1))
    running.start()
    until(lambda: len(serving(running)) == 2, "two workers do not serve")
    yield running
    running.kill()


def until(holds: Callable[[], object], what: str) -> None:
    """Wait until something holds, or fail."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def serving(broker: RunningBroker) -> list[int]:
    """Return the process ids of the workers that the supervisor has seen serving, and that live."""
    return [pid for pid in (line["process"] for line in broker.logged("worker.serving")) if pid in broker.worker_ids()]


def is_replaced(broker: RunningBroker, worker: int) -> bool:
    """Whether two workers serve, and this one is not among them."""
    there = serving(broker)
    return worker not in there and len(there) == 2


@contextlib.asynccontextmanager
async def connected(broker: RunningBroker, worker: int) -> AsyncIterator[aiohttp.ClientSession]:
    """Return a session whose one connection is to this worker: the others stood still when it was made."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
        others = [pid for pid in serving(broker) if pid != worker]
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        try:
            async with session.get(f"{broker.issuer}/healthz") as response:
                await response.read()
        finally:
            for pid in others:
                os.kill(pid, signal.SIGCONT)
        yield session


async def operator_token(broker: RunningBroker) -> str:
    """Return a token of the operator for the broker's API."""
    key = read_key(broker.home / "operator.pem")
    async with aiohttp.ClientSession() as session:
        token = await token_for(
            session, broker.issuer, "operator", key, resource=f"{broker.issuer}/v1", scope=OPERATING
        )
    assert token is not None
    return token


async def is_active(session: aiohttp.ClientSession, broker: RunningBroker, operator: str, token: str) -> bool:
    """Return what introspection says of a token."""
    headers = {"Authorization": f"Bearer {operator}"}
    async with session.post(f"{broker.issuer}/oauth2/introspect", data={"token": token}, headers=headers) as response:
        said: bool = (await response.json())["active"]
        return said


async def issued(broker: RunningBroker, key: ec.EllipticCurvePrivateKey) -> str:
    """Return a fresh token of alpha, over a connection of its own."""
    async with aiohttp.ClientSession() as session:
        token = await token_for(session, broker.issuer, "alpha", key, resource=TICKETS, scope="tickets:read")
    assert token is not None
    return token


def measured(broker: RunningBroker, sample: str) -> float:
    """Return the value of a metric; 0 if there is none."""
    with urllib.request.urlopen(f"http://127.0.0.1:{broker.metrics}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(sample))


@pytest.mark.timeout(600)
async def test_workers_are_killed_under_load(broker: RunningBroker) -> None:
    """Nothing that was received is lost, nothing revoked is accepted by anybody, and the ledger is one valid tree."""
    key, operator, seen = read_key(broker.agent("alpha")), await operator_token(broker), Seen()
    async with load(broker, key, operator, seen):
        for _ in range(KILLS):
            await asyncio.sleep(random.uniform(0.05, 0.6))
            victim = random.choice(serving(broker))
            os.kill(victim, signal.SIGKILL)
            await asyncio.to_thread(until, partial(is_replaced, broker, victim), "no replacement")
    assert seen.undead == [], "a token was accepted after its revocation was acknowledged"
    assert len(seen.tokens) > KILLS, "the load was too small to mean anything"
    assert seen.dead
    sample = [seen.tokens[jti] for jti in random.sample(seen.dead, min(20, len(seen.dead)))]
    for worker in serving(broker):
        async with connected(broker, worker) as session:
            assert not any([await is_active(session, broker, operator, token) for token in sample])
    assert broker.stop() == 0
    missing = set(seen.tokens) - recorded(broker.ledger)
    assert not missing, f"received but not recorded: {sorted(missing)[:3]}"
    broker.command("ledger", "verify", "--file", str(broker.ledger))


@pytest.mark.timeout(300)
async def test_a_rolling_restart_loses_no_request(broker: RunningBroker) -> None:
    """All workers are others afterwards; every request that was sent meanwhile was answered as ever."""
    key = read_key(broker.agent("alpha"))
    answered = 0
    failed: list[str] = []

    async def ask(session: aiohttp.ClientSession) -> None:
        nonlocal answered
        while not over.is_set():
            try:
                token = await token_for(session, broker.issuer, "alpha", key, resource=TICKETS, scope="tickets:read")
                failed.extend(["refused"] * (token is None))
            except LOST as error:
                failed.append(repr(error))
            answered += 1

    over, before = asyncio.Event(), set(serving(broker))
    async with aiohttp.ClientSession() as session:
        asking = [asyncio.ensure_future(ask(session)) for _ in range(6)]
        assert broker.process is not None
        broker.process.send_signal(signal.SIGUSR2)
        await asyncio.to_thread(until, lambda: broker.logged("workers.replaced"), "the workers were not replaced")
        over.set()
        await asyncio.gather(*asking)
    assert failed == []
    assert answered > 10
    after = set(serving(broker))
    assert len(after) == 2
    assert not after & before
    assert broker.stop() == 0


async def test_a_proof_that_one_worker_took_is_refused_by_the_other(broker: RunningBroker) -> None:
    """A DPoP proof for the broker's own API is good once, not once for each worker."""
    holder, now = DpopKey.generate(), int(time.time())
    url = f"{broker.issuer}/v1/revocations"
    bound = holder.proof("POST", f"{broker.issuer}/oauth2/token", now=now)
    async with aiohttp.ClientSession(headers={"DPoP": bound}) as session:
        key = read_key(broker.home / "operator.pem")
        audience = f"{broker.issuer}/v1"
        token = await token_for(session, broker.issuer, "operator", key, resource=audience, scope=OPERATING)
    assert token is not None
    # In a second after the one in which the workers began: an older proof could have been used before that.
    proof = holder.proof("GET", url, now=now + 2, access_token=token)
    headers = {"Authorization": f"DPoP {token}", "DPoP": proof}
    answers = []
    for worker in serving(broker):
        async with connected(broker, worker) as session, session.get(url, headers=headers) as response:
            answers.append((response.status, (await response.json()).get("code")))
    assert answers == [(200, None), (401, "proof_replayed")]


async def test_a_rule_that_cannot_be_written_is_in_force_in_all_workers(broker: RunningBroker) -> None:
    """Also when the worker that made it is killed before it is written: then another one writes it."""
    key, operator = read_key(broker.agent("alpha")), await operator_token(broker)
    first, second = serving(broker)
    token = await issued(broker, key)
    body = {"selector": {"agent": "alpha"}, "reason": "the disk is broken and the agent hijacked"}
    headers = {"Authorization": f"Bearer {operator}", "Idempotency-Key": str(uuid.uuid4())}
    async with connected(broker, first) as one, connected(broker, second) as other, locked(broker.ledger):
        async with one.post(f"{broker.issuer}/v1/revocations", json=body, headers=headers) as response:
            made = await response.json()
            assert (response.status, made["durable"]) == (202, False)
        assert not await is_active(other, broker, operator, token)
        os.kill(first, signal.SIGKILL)
        assert not await is_active(other, broker, operator, token)
    await asyncio.to_thread(until, lambda: broker.logged("rule.written_late"), "the rule was not written later")
    assert await active(broker, operator, [token]) == [False]
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{broker.issuer}/v1/revocations/1", headers=headers) as response,
    ):
        assert (await response.json())["id"] == made["id"]
    assert broker.stop() == 0


async def test_a_verifier_that_changes_over_keeps_a_rule_that_cannot_be_written(broker: RunningBroker) -> None:
    """All workers tell of it: no snapshot or heartbeat of another one takes it back."""
    gateway = KeyIdentity.from_file("gateway", broker.agent("gateway"))
    key, operator = read_key(broker.agent("alpha")), await operator_token(broker)
    token = await issued(broker, key)
    first, second = serving(broker)
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(broker.issuer, identity=gateway))
        verifier = Verifier(broker.issuer, TICKETS, credentials=client)
        other = await stack.enter_async_context(connected(broker, second))
        os.kill(second, signal.SIGSTOP)  # so that the verifier gets to the first
        try:
            await stack.enter_async_context(verifier)
            await kept(verifier, lambda: verifier.following().streaming)
        finally:
            os.kill(second, signal.SIGCONT)
        await verifier.verify(token)
        async with locked(broker.ledger):
            body = {"selector": {"agent": "alpha"}, "reason": "the disk is broken and the agent hijacked"}
            headers = {"Authorization": f"Bearer {operator}", "Idempotency-Key": str(uuid.uuid4())}
            async with other.post(f"{broker.issuer}/v1/revocations", json=body, headers=headers) as response:
                assert (response.status, (await response.json())["propagation"]["applied"]) == (202, False)
            await kept(verifier, lambda: verifier.following().pending == 1)
            os.kill(first, signal.SIGKILL)
            again = time.monotonic() + FOLLOWED_SECONDS  # whoever follows then has heard of another worker
            await kept(verifier, lambda: time.monotonic() > again and verifier.following().streaming, token)
            assert verifier.following().pending == 1
        await kept(verifier, lambda: verifier.epoch == 1 and verifier.following().streaming, token)
        assert verifier.following().pending == 0
        assert await refusal(verifier, token) is Code.TOKEN_REVOKED


async def kept(verifier: Verifier, holds: Callable[[], bool], revoked: str | None = None) -> None:
    """Wait until something holds; a token that is ``revoked`` is so all the while."""
    async with asyncio.timeout(PATIENCE):
        while not holds():
            assert revoked is None or await refusal(verifier, revoked) in {Code.TOKEN_REVOKED, Code.VIEW_STALE}
            await asyncio.sleep(0.005)


async def test_a_follower_hears_of_every_rule_until_its_worker_is_replaced(broker: RunningBroker) -> None:
    """A rule that one worker made is told by the other; a stream does not outlive the worker, nor hold it up."""
    operator = await operator_token(broker)
    first, second = serving(broker)
    headers = {"Authorization": f"Bearer {operator}", "Idempotency-Key": str(uuid.uuid4())}
    body = {"selector": {"agent": "alpha"}, "reason": "hijacked"}
    async with (
        connected(broker, first) as one,
        connected(broker, second) as other,
        other.get(f"{broker.issuer}/v1/revocations/stream", headers=headers) as stream,
    ):
        assert stream.status == 200
        async with one.post(f"{broker.issuer}/v1/revocations", json=body, headers=headers) as response:
            assert response.status == 201
        async with asyncio.timeout(PATIENCE):
            async for line in stream.content:
                if line == b"event: rule\n":
                    break
            assert broker.process is not None
            broker.process.send_signal(signal.SIGUSR2)
            await stream.read()
    await asyncio.to_thread(until, partial(is_replaced, broker, second), "no replacement")


async def test_metrics_are_those_of_all_workers(broker: RunningBroker) -> None:
    """Whoever answers; and what a worker has counted stays counted when it is killed."""
    key = read_key(broker.agent("alpha"))
    first, second = serving(broker)
    counted = measured(broker, "broker_tokens_issued_total")
    for worker in (first, second, second):
        async with connected(broker, worker) as session:
            assert await token_for(session, broker.issuer, "alpha", key, resource=TICKETS, scope="tickets:read")
    assert measured(broker, "broker_tokens_issued_total") == counted + 3
    os.kill(second, signal.SIGKILL)
    await asyncio.to_thread(until, partial(is_replaced, broker, second), "no replacement")
    for _ in range(4):
        assert measured(broker, "broker_tokens_issued_total") == counted + 3
    assert measured(broker, "broker_workers ") == 2
    assert measured(broker, "broker_workers_ended_total") == 1
    assert measured(broker, "broker_ledger_sound") == 1


def test_the_workers_end_with_their_supervisor(broker: RunningBroker) -> None:
    """Until then the ledger is nobody else's; afterwards it, and the port, can be had at once."""
    workers = serving(broker)
    broker.command("serve", "--port", str(free_port()), expect=3)
    broker.kill()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "workers go on without a supervisor")
    broker.start()
    assert broker.stop() == 0
