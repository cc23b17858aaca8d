"""The process that revokes: again and again something that is in use, by one of its facts, until it is acknowledged."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import aiohttp
import jwt

from tests.chaos.clients import LOST, Brokers, Place
from tests.chaos.journal import Journal, Tail

NAME: Final = "revoker"
WAIT: Final = 15
"""Seconds that a call may wait for everybody to apply the rule."""

SETTLED: Final = 0.4
"""Seconds after which a token that is held up is in use everywhere."""

_PATIENCE: Final = aiohttp.ClientTimeout(total=WAIT + 10, connect=2)

SELECTORS: Final[tuple[Callable[[Mapping[str, Any]], dict[str, object]], ...]] = (
    lambda claims: {"token": claims["jti"]},
    lambda claims: {"task": claims["broker"]["task"]},
    lambda claims: {"agent": claims["sub"]},
    lambda claims: {"role": claims["broker"]["role"], "agent": claims["sub"]},
    lambda claims: {"scope": claims["scope"]},
    lambda claims: {"token": claims["jti"], "tier": claims["broker"]["tier"]},
    lambda claims: {"task": claims["broker"]["task"], "audience": claims["aud"]},
    lambda claims: {"agent": claims["sub"], "issuer": claims["broker"]["issuer"]},
    lambda _: {"everything": True},
)


def revoke(place: Place, clients: tuple[str, ...], *, pause: float, count: int | None) -> None:
    """Revoke ``count`` times, or until the process is ended, with so many seconds in between."""
    asyncio.run(_revoke(place, clients, pause, count))


async def _revoke(place: Place, clients: tuple[str, ...], pause: float, count: int | None) -> None:
    journal = Journal(place.journals, NAME)
    tails = [Tail(place.held_up(client)) for client in clients]
    async with aiohttp.ClientSession(timeout=_PATIENCE) as session:
        brokers = Brokers(place, "operator", session)
        for turn in itertools.count() if count is None else range(count):
            await asyncio.sleep(random.uniform(0, 2 * pause))
            claims = jwt.decode(await _in_use(tails), options={"verify_signature": False})
            selector = SELECTORS[turn % len(SELECTORS)](claims)
            body = {"selector": selector, "reason": "what the run is for", "wait": WAIT}
            if "agent" in selector:
                body["block"] = {"for": "1s"}
            await _acknowledged(place, brokers, journal, claims["jti"], body)


async def _in_use(tails: Sequence[Tail]) -> str:
    """Return a token that is in use everywhere by now, and will be for a while."""
    newest: list[dict[str, Any]] = []
    while True:
        newest += [line for tail in tails for line in tail.new()]
        now = time.monotonic()
        newest = [line for line in newest if now - line["at"] < 2 * SETTLED]
        if settled := [line["jwt"] for line in newest if now - line["at"] > SETTLED]:
            return str(random.choice(settled))
        await asyncio.sleep(SETTLED / 4)


async def _acknowledged(place: Place, brokers: Brokers, journal: Journal, token: str, body: dict[str, Any]) -> None:
    """Ask for one revocation until a broker says that it is done: the same one, whichever is asked."""
    key, began = str(uuid.uuid4()), time.monotonic()
    headers = {"Idempotency-Key": key}
    while True:
        port, asked = random.choice(place.ports), time.monotonic()
        try:
            status, told = await brokers.call(port, "/v1/revocations", "revocations:write", json=body, headers=headers)
        except LOST:
            status, told = 0, {}
        if status in (201, 202):
            journal.write(
                "revoked", key=key, token=token, selector=told["selector"], id=told["id"], rule=told["rule"],
                durable=told["durable"], applied=bool((told["propagation"] or {}).get("applied")),
                told=told["propagation"], began=began, asked=asked, ended=time.monotonic(),
            )  # fmt: skip
            if told["durable"]:
                return
        await asyncio.sleep(0.05)
