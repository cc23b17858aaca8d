"""Clients that issue and revoke without end, and remember what they know for certain."""

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
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from broker.core.errors import BrokerError
from broker.verifier import Verifier
from tests.support.running_broker import TICKETS, RunningBroker

WORKERS = 6
LOST = (aiohttp.ClientError, asyncio.TimeoutError, OSError)


@dataclass
class Seen:
    """What the clients know for certain: tokens that they received, and tasks whose revocation was acknowledged."""

    tokens: dict[str, str] = field(default_factory=dict)
    tasks: dict[str, list[str]] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    dead: list[str] = field(default_factory=list)
    undead: list[str] = field(default_factory=list)
    """Tokens that were said to be active after their revocation was acknowledged."""


def token_form(
    issuer: str, name: str, key: EllipticCurvePrivateKey, seconds: int = 60, /, **ask: str
) -> dict[str, str]:
    """Return the form by which an agent asks for a token, with an assertion that is good for so long."""
    now = int(time.time())
    claims = {"iss": name, "sub": name, "aud": issuer, "iat": now, "exp": now + seconds, "jti": str(uuid.uuid4())}
    return {
        "grant_type": "client_credentials",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": jwt.encode(claims, key, algorithm="ES256"),
        **ask,
    }


async def token_for(
    session: aiohttp.ClientSession, issuer: str, name: str, key: EllipticCurvePrivateKey, **ask: str
) -> str | None:
    """Return a fresh access token of an agent, or None if it was refused."""
    async with session.post(f"{issuer}/oauth2/token", data=token_form(issuer, name, key, **ask)) as response:
        answer = await response.json()
        return str(answer["access_token"]) if response.status == 200 else None


async def _issue(session: aiohttp.ClientSession, issuer: str, key: EllipticCurvePrivateKey, seen: Seen) -> None:
    while True:
        with contextlib.suppress(*LOST):
            token = await token_for(session, issuer, "alpha", key, resource=TICKETS, scope="tickets:read")
            if token is not None:
                claims = jwt.decode(token, options={"verify_signature": False})
                seen.tokens[claims["jti"]] = token
                seen.tasks.setdefault(claims["broker"]["task"], []).append(claims["jti"])
                continue
        await asyncio.sleep(0.01)


async def _revoke(session: aiohttp.ClientSession, broker: RunningBroker, operator: str, seen: Seen) -> None:
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
            async with session.post(f"{broker.issuer}/v1/revocations", json=body, headers=headers) as response:
                if response.status == 201:
                    seen.revoked.add(task)
                    seen.dead.extend(held)  # those received before the revocation was asked for
        if task in seen.revoked:
            await _look_at(broker, operator, [seen.tokens[jti] for jti in held[:4]], seen)


async def _look_at(broker: RunningBroker, operator: str, dead: list[str], seen: Seen) -> None:
    """Ask for tokens that were revoked just now, each over a connection of its own: whoever answers must know."""
    for token in dead:
        with contextlib.suppress(*LOST, KeyError):
            seen.undead += [token] * sum(await active(broker, operator, [token]))


@contextlib.asynccontextmanager
async def load(broker: RunningBroker, key: EllipticCurvePrivateKey, operator: str, seen: Seen) -> AsyncIterator[None]:
    """Issue to alpha and revoke its tasks for as long as the context lasts."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        work = [asyncio.ensure_future(_issue(session, broker.issuer, key, seen)) for _ in range(WORKERS)]
        work.append(asyncio.ensure_future(_revoke(session, broker, operator, seen)))
        try:
            yield
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)


async def active(broker: RunningBroker, operator: str, tokens: list[str]) -> list[bool]:
    """Say of each token whether introspection calls it active."""
    headers = {"Authorization": f"Bearer {operator}"}
    answers = []
    async with aiohttp.ClientSession() as session:
        for token in tokens:
            url = f"{broker.issuer}/oauth2/introspect"
            async with session.post(url, data={"token": token}, headers=headers) as response:
                answers.append((await response.json())["active"])
    return answers


async def accepted(broker: RunningBroker, operator: str, tokens: list[str]) -> list[str]:
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


def read_key(path: Path) -> EllipticCurvePrivateKey:
    """Return the private key in a file."""
    key = load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(key, EllipticCurvePrivateKey)
    return key


def recorded(ledger: Path) -> set[str]:
    """Return the ids of all tokens that the ledger records."""
    with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as connection:
        return {row[0] for row in connection.execute("SELECT ref FROM entries WHERE kind = 'token.issued'")}
