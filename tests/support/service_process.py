"""A resource server that does nothing but judge tokens again and again, in a process of its own, for e2e tests.

``ISSUER THROUGH KEY NAME JOURNAL TOKENS…``: it is the agent ``gateway`` with this key file, reaches the broker's port
through the port ``THROUGH`` alone, acknowledges as ``NAME``, and writes to the journal when it accepted a token
(``token``, its place among them; ``began``, ``ended``), and when it refuses one for another reason (``code``).
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from broker.client import Client, KeyIdentity
from broker.core.errors import BrokerError
from broker.verifier import Verifier
from tests.chaos.detour import detour
from tests.chaos.journal import Journal
from tests.support.running_broker import TICKETS

PAUSE_SECONDS: Final = 0.005


async def serve(issuer: str, key: Path, name: str, journal: Journal, tokens: Sequence[str]) -> None:
    """Judge the tokens until the process is ended."""
    identity = KeyIdentity.from_file("gateway", key)
    async with (
        Client(issuer, identity=identity) as client,
        Verifier(issuer, TICKETS, credentials=client, name=name, max_staleness=3, leeway=1) as verifier,
    ):
        refused: dict[int, str] = {}
        while True:
            for place, token in enumerate(tokens):
                began = time.monotonic()
                try:
                    await verifier.verify(token)
                except BrokerError as error:
                    code = error.code.value
                    if refused.get(place) != code:
                        journal.write("refused", token=place, code=code, began=began, ended=time.monotonic())
                    refused[place] = code
                else:
                    journal.write("accepted", token=place, began=began, ended=time.monotonic())
                    refused.pop(place, None)
            await asyncio.sleep(PAUSE_SECONDS)


def main(issuer: str, through: str, key: str, name: str, journal: str, *tokens: str) -> None:
    """Run it."""
    path, port = Path(journal), int(issuer.rpartition(":")[2])
    with asyncio.Runner(loop_factory=detour(port, int(through))) as runner:
        runner.run(serve(issuer, Path(key), name, Journal(path.parent, path.stem), tokens))


if __name__ == "__main__":
    main(*sys.argv[1:])
