"""The process that revokes: again and again something that is in use, by one of its facts, until it is acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import jwt

from tests.chaos.clients import LOST, Brokers, Place
from tests.chaos.journal import Journal, Tail

SCOPE: Final = "revocations:write"
SETTLED: Final = 0.4
"""Seconds after which a token that is held up is in use everywhere."""

_PATIENCE: Final = 10
"""Seconds that a call may take besides what it waits for."""

SELECTORS: Final[Mapping[str, Callable[[Mapping[str, Any]], dict[str, object]]]] = {
    "token": lambda claims: {"token": claims["jti"]},
    "task": lambda claims: {"task": claims["broker"]["task"]},
    "agent": lambda claims: {"agent": claims["sub"]},
    "role": lambda claims: {"role": claims["broker"]["role"], "agent": claims["sub"]},
    "scope": lambda claims: {"scope": claims["scope"]},
    "tier": lambda claims: {"token": claims["jti"], "tier": claims["broker"]["tier"]},
    "audience": lambda claims: {"task": claims["broker"]["task"], "audience": claims["aud"]},
    "issuer": lambda claims: {"agent": claims["sub"], "issuer": claims["broker"]["issuer"]},
    "everything": lambda _: {"everything": True},
}
"""By what a token in use is hit."""

BLOCKING: Final = frozenset({"agent", "issuer"})
"""Which of them also refuse new tokens for a while."""


@dataclass(frozen=True, slots=True)
class Habits:
    """How somebody revokes: ``count`` times, or until the process is ended, by one of ``kinds`` in turn.

    Times are seconds: ``pause`` lies between two revocations, and each may ``wait`` for everybody to apply the rule.
    """

    kinds: tuple[str, ...]
    pause: float
    wait: float
    count: int | None = None


def revoke(place: Place, name: str, clients: tuple[str, ...], habits: Habits) -> None:
    """Revoke what clients have in use."""
    asyncio.run(_revoke(place, name, clients, habits))


async def _revoke(place: Place, name: str, clients: tuple[str, ...], habits: Habits) -> None:
    journal, shown = Journal(place.journals, name), Journal(place.folder, place.held_up(name).stem)
    tails = [Tail(place.held_up(client)) for client in clients]
    patience = aiohttp.ClientTimeout(total=habits.wait + _PATIENCE, connect=2)
    async with aiohttp.ClientSession(timeout=patience) as session:
        brokers = Brokers(place, "operator", session)
        for turn in itertools.count() if habits.count is None else range(habits.count):
            await asyncio.sleep(random.uniform(0, 2 * habits.pause))
            port, kind = random.choice(place.ports), habits.kinds[turn % len(habits.kinds)]
            with contextlib.suppress(*LOST):
                await brokers.sign_in(port, SCOPE)  # or the rule before this one may have killed our own token
            token = await _in_use(tails)
            shown.write("held", jwt=token, at=time.monotonic())  # for whoever hears of the rule late, or never
            claims = jwt.decode(token, options={"verify_signature": False})
            body = {"selector": SELECTORS[kind](claims), "reason": "what the run is for", "wait": habits.wait}
            if kind in BLOCKING:
                body["block"] = {"for": "1s"}
            await _acknowledged(place, brokers, journal, claims["jti"], port, body)


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


async def _acknowledged(
    place: Place, brokers: Brokers, journal: Journal, token: str, port: int, body: dict[str, Any]
) -> None:
    """Ask for one revocation until a broker says that it is done: the same one, whichever is asked."""
    key, began = str(uuid.uuid4()), time.monotonic()
    headers = {"Idempotency-Key": key}
    while True:
        try:
            status, told = await brokers.call(port, "/v1/revocations", SCOPE, json=body, headers=headers)
        except LOST:
            status, told = 0, {}
        if status in (HTTPStatus.CREATED, HTTPStatus.ACCEPTED):
            journal.write(
                "revoked", key=key, token=token, selector=told["selector"], id=told["id"], rule=told["rule"],
                durable=told["durable"], applied=bool((told["propagation"] or {}).get("applied")),
                told=told["propagation"], began=began, ended=time.monotonic(),
            )  # fmt: skip
            if told["durable"]:
                return
        await asyncio.sleep(0.05)
        port = random.choice(place.ports)
