"""A verifier process: judges the tokens in use again and again, with ``broker.verifier``, as a resource server does."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import deque
from typing import Final

from broker.client import Client, KeyIdentity
from broker.core.errors import BrokerError
from broker.verifier import Verifier
from tests.chaos.clients import HELD, Place, name_of
from tests.chaos.detour import detour
from tests.chaos.journal import Journal, Tail
from tests.support.running_broker import TICKETS

AGENT: Final = "gateway"

MAX_STALENESS: Final = 4.0
LEEWAY: Final = 1.0
"""Less than by default: a verifier that hears nothing shall refuse within the time that a fault or a call may last."""

WITHIN: Final = MAX_STALENESS + LEEWAY
"""After so many seconds without a statement, where clocks are the same, nothing is accepted (see ``View``)."""


def verify(place: Place, name: str, holders: tuple[str, ...], *, through: int, pause: float) -> None:
    """Be a verifier until the process is ended. It reaches the broker through the port ``through`` alone.

    It judges what the ``holders`` hold up: clients what they use, and revokers what they revoke.
    The broker knows each process that ever had this name by a name of its own.
    """
    port = int(place.issuer.rpartition(":")[2])
    with asyncio.Runner(loop_factory=detour(port, through)) as runner:
        runner.run(_verify(place, name, holders, pause))


async def _verify(place: Place, name: str, holders: tuple[str, ...], pause: float) -> None:
    journal, own_name = Journal(place.journals, name), f"{name}.{os.getpid()}"
    tails = [(Tail(place.held_up(holder)), deque[tuple[str, str]](maxlen=HELD)) for holder in holders]
    refused: dict[str, str] = {}
    identity = KeyIdentity.from_file(AGENT, place.folder / f"{AGENT}.pem")
    async with (
        Client(place.issuer, identity=identity) as client,
        Verifier(
            place.issuer, TICKETS, credentials=client, max_staleness=MAX_STALENESS, leeway=LEEWAY, name=own_name
        ) as verifier,
    ):
        while True:
            for tail, held in tails:
                held.extend((name_of(line["jwt"]), line["jwt"]) for line in tail.new())
                for jti, token in held:
                    await _judge(verifier, journal, name, jti, token, refused)
            await asyncio.sleep(random.uniform(0, 2 * pause))


async def _judge(
    verifier: Verifier, journal: Journal, name: str, jti: str, token: str, refused: dict[str, str]
) -> None:
    """Judge one token. Refusals are written down once, until the reason changes."""
    began = time.monotonic()
    try:
        await verifier.verify(token, scopes=("tickets:read",))
    except BrokerError as error:
        if refused.get(jti) != error.code.value:
            refused[jti] = error.code.value
            journal.write("refused", by=name, token=jti, began=began, ended=time.monotonic(), code=error.code.value)
        return
    journal.write("accepted", by=name, token=jti, began=began, ended=time.monotonic())
    refused.pop(jti, None)
