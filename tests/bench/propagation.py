"""Receipts: from the call that revokes until every verifier has said that it applied the rule."""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import time
import uuid
from pathlib import Path
from typing import Any, Final

import aiohttp
from rich.table import Table

from broker.core.marks import PURPOSE, mark_of
from broker.signing.master_key import KeyFile, load_master_key
from broker.signing.sealing import derived_key
from tests.support.running_broker import RunningBroker

COUNTS: Final = (0, 40, 1_000)
ROUNDS: Final = 7
SCOPES: Final = ("operator:read", "revocations:read", "revocations:write")
LOOK_SECONDS: Final = 0.002


def measure(folder: Path, table: Table, _many: int) -> None:
    """Add the rows about receipts. The verifiers are connections of one other process on this machine."""
    broker = RunningBroker(folder / "receipts")
    (folder / "receipts").mkdir()
    broker.initialise()
    broker.start()
    try:
        key = str(broker.home / "operator.pem")
        scopes = [word for scope in SCOPES for word in ("--scope", scope)]
        api = ("--audience", f"{broker.issuer}/v1")
        answer = broker.ask("token", "--agent", "operator", "--key", key, *api, *scopes)
        master_key = load_master_key(KeyFile(broker.home / "master.key"))
        marks_key = derived_key(master_key, PURPOSE).reveal()
        alone: float | None = None
        for count in COUNTS:
            times = asyncio.run(Crowd(broker.issuer, answer["access_token"], marks_key, count).rounds())
            median = statistics.median(times)
            alone = median if alone is None else alone
            figure = f"{median:.1f} ms ({min(times):.1f} to {max(times):.1f})"
            what = f"a rule applied by {count:,} verifiers, from the call"
            table.add_row(what, figure, f"{median / alone:.1f}", "no verifiers")
    finally:
        broker.stop()


class Crowd:
    """Verifiers that hear of a rule by one of them, which asks again and again, and acknowledge all at once."""

    def __init__(self, issuer: str, token: str, marks_key: bytes, count: int) -> None:
        """``count`` verifiers have a connection each."""
        self._url = f"{issuer}/v1/revocations"
        self._headers = {"Authorization": f"Bearer {token}"}
        self._marks_key = marks_key
        self._count = count

    async def rounds(self) -> list[float]:
        """Return how many milliseconds revoking took with each of some rules, one after the other."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, headers=self._headers) as http:
            await self._acknowledge(http, await self._epoch(http))
            await asyncio.sleep(2)  # signs of life are written a second later
            return [await self._round(http) for _ in range(ROUNDS)]

    async def _round(self, http: aiohttp.ClientSession) -> float:
        before = await self._epoch(http)
        began = time.perf_counter()
        revoking = asyncio.create_task(self._revoke(http))
        if self._count:
            await self._acknowledge(http, await self._next(http, before))
        seen = await revoking
        took = (time.perf_counter() - began) * 1000
        if not (seen["applied"] and seen["verifiers_applied"] == self._count):
            msg = f"not applied: {seen}"
            raise RuntimeError(msg)
        return took

    async def _next(self, http: aiohttp.ClientSession, before: int) -> int:
        for _ in range(10_000):
            epoch = await self._epoch(http)
            if epoch > before:
                return epoch
            await asyncio.sleep(LOOK_SECONDS)
        msg = "no rule came"
        raise RuntimeError(msg)

    async def _revoke(self, http: aiohttp.ClientSession) -> dict[str, Any]:
        order = {"selector": {"agent": "nobody"}, "reason": "measured", "wait": 20}
        async with http.post(self._url, json=order, headers={"Idempotency-Key": str(uuid.uuid4())}) as reply:
            return dict((await reply.json())["propagation"])

    async def _epoch(self, http: aiohttp.ClientSession) -> int:
        async with http.get(f"{self._url}/snapshot") as reply:
            payload = (await reply.text()).split(".")[1]
        return int(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["epoch"])

    async def _acknowledge(self, http: aiohttp.ClientSession, epoch: int) -> None:
        told = {"epoch": epoch, "mark": mark_of(self._marks_key, epoch), "max_age": 600.0}
        await asyncio.gather(*(self._tell(http, {"verifier": f"gw-{n}", **told}) for n in range(self._count)))

    async def _tell(self, http: aiohttp.ClientSession, told: dict[str, object]) -> None:
        async with http.post(f"{self._url}/acks", json=told) as reply:
            reply.raise_for_status()
