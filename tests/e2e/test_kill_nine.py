"""``kill -9`` at random moments under load: nothing that anybody received is lost, nothing revoked comes back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from broker.core.errors import BrokerError
from broker.verifier import Verifier
from tests.support.running_broker import TICKETS, RunningBroker

KILLS = 50
WORKERS = 6
LOST = (aiohttp.ClientError, asyncio.TimeoutError, OSError)


@dataclass
class Seen:
    """What the clients know for certain: tokens that they received, and tasks whose revocation was acknowledged."""

    tokens: dict[str, str] = field(default_factory=dict)
    tasks: dict[str, list[str]] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    dead: list[str] = field(default_factory=list)


def _assertion(name: str, key: EllipticCurvePrivateKey, issuer: str) -> str:
    now = int(time.time())
    claims = {"iss": name, "sub": name, "aud": issuer, "iat": now, "exp": now + 60, "jti": str(uuid.uuid4())}
    return jwt.encode(claims, key, algorithm="ES256")


async def _token(
    session: aiohttp.ClientSession, issuer: str, name: str, key: EllipticCurvePrivateKey, **ask: str
) -> str | None:
    form = {
        "grant_type": "client_credentials",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": _assertion(name, key, issuer),
        **ask,
    }
    async with session.post(f"{issuer}/oauth2/token", data=form) as response:
        answer = await response.json()
        return str(answer["access_token"]) if response.status == 200 else None


async def _issue(session: aiohttp.ClientSession, issuer: str, key: EllipticCurvePrivateKey, seen: Seen) -> None:
    while True:
        with contextlib.suppress(*LOST):
            token = await _token(session, issuer, "alpha", key, resource=TICKETS, scope="tickets:read")
            if token is not None:
                claims = jwt.decode(token, options={"verify_signature": False})
                seen.tokens[claims["jti"]] = token
                seen.tasks.setdefault(claims["broker"]["task"], []).append(claims["jti"])
                continue
        await asyncio.sleep(0.01)


async def _revoke(session: aiohttp.ClientSession, issuer: str, operator: str, seen: Seen) -> None:
    while True:
        await asyncio.sleep(random.uniform(0, 0.05))
        live = [task for task in seen.tasks if task not in seen.revoked]
        if not live:
            continue
        task = random.choice(live)
        held = list(seen.tasks[task])
        headers = {"Authorization": f"Bearer {operator}", "Idempotency-Key": str(uuid.uuid4())}
        body = {"selector": {"task": task}, "reason": "under load"}
        with contextlib.suppress(*LOST):
            async with session.post(f"{issuer}/v1/revocations", json=body, headers=headers) as response:
                if response.status == 201:
                    seen.revoked.add(task)
                    seen.dead.extend(held)  # those received before the revocation was asked for


@contextlib.asynccontextmanager
async def _load(broker: RunningBroker, key: EllipticCurvePrivateKey, operator: str, seen: Seen) -> AsyncIterator[None]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        work = [asyncio.ensure_future(_issue(session, broker.issuer, key, seen)) for _ in range(WORKERS)]
        work.append(asyncio.ensure_future(_revoke(session, broker.issuer, operator, seen)))
        try:
            yield
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)


async def _active(broker: RunningBroker, operator: str, tokens: list[str]) -> list[bool]:
    headers = {"Authorization": f"Bearer {operator}"}
    answers = []
    async with aiohttp.ClientSession() as session:
        for token in tokens:
            url = f"{broker.issuer}/oauth2/introspect"
            async with session.post(url, data={"token": token}, headers=headers) as response:
                answers.append((await response.json())["active"])
    return answers


async def _accepted(broker: RunningBroker, operator: str, tokens: list[str]) -> list[str]:
    """Return those tokens that a verifier accepts which has just fetched the rules."""

    async def credentials() -> str:
        return operator

    accepted = []
    async with Verifier(broker.issuer, TICKETS, credentials=credentials) as verifier:
        for token in tokens:
            with contextlib.suppress(BrokerError):
                await verifier.verify(token)
                accepted.append(token)
    return accepted


def _read_key(path: Path) -> EllipticCurvePrivateKey:
    key = load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(key, EllipticCurvePrivateKey)
    return key


def _recorded(ledger: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as connection:
        return {row[0] for row in connection.execute("SELECT ref FROM entries WHERE kind = 'token.issued'")}


@pytest.mark.timeout(900)
async def test_fifty_kills_under_load(tmp_path: Path) -> None:
    """After each kill: every token received is in the ledger, the ledger verifies, no revoked token is accepted."""
    broker = RunningBroker(tmp_path)
    broker.initialise()
    broker.start()
    key = _read_key(broker.agent("alpha"))
    operator_key = _read_key(broker.home / "operator.pem")
    seen = Seen()
    for _ in range(KILLS):
        async with aiohttp.ClientSession() as session:
            scope = "operator:read revocations:read revocations:write"
            audience = f"{broker.issuer}/v1"
            operator = await _token(session, broker.issuer, "operator", operator_key, resource=audience, scope=scope)
        assert operator is not None
        async with _load(broker, key, operator, seen):
            await asyncio.sleep(random.uniform(0.05, 0.6))
            broker.kill()
        await asyncio.to_thread(broker.start)
        missing = set(seen.tokens) - _recorded(broker.ledger)
        assert not missing, f"received but not recorded: {sorted(missing)[:3]}"
        sample = [seen.tokens[jti] for jti in random.sample(seen.dead, min(20, len(seen.dead)))]
        assert not any(await _active(broker, operator, sample)), "a revoked token came back"
        async with aiohttp.ClientSession() as session:
            fresh = await _token(session, broker.issuer, "alpha", key, resource=TICKETS, scope="tickets:read")
        assert fresh is not None
        assert await _accepted(broker, operator, [*sample, fresh]) == [fresh], "a verifier accepts a revoked token"
    assert broker.stop() == 0
    broker.command("ledger", "verify", "--file", str(broker.ledger))
    assert len(seen.tokens) > KILLS, "the load was too small to mean anything"
    assert seen.dead
