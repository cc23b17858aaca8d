"""Rules for everything over few and over very many live tokens, and starting there: on a file, and on PostgreSQL."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
import uuid
from http import HTTPStatus
from pathlib import Path
from typing import Final

import aiohttp
from rich.table import Table

from tests.bench.fill import fill
from tests.bench.revoking import CLIENTS, judged, refusals
from tests.chaos.clients import Brokers
from tests.chaos.database import Database
from tests.chaos.ground import Ground
from tests.chaos.member import Member
from tests.chaos.revoking import SCOPE
from tests.chaos.run import Plan

FEW: Final = 1_000
VERIFIERS: Final = 10
RULES: Final = 15
"""How many rules for everything are timed on each ledger, with verifiers and without."""

STARTS: Final = 5


def measure(folder: Path, table: Table, many: int) -> None:
    """Add the rows, each time next to the same with few tokens."""
    few: dict[str, float] = {}
    for count in (FEW, many):
        ground = Ground(folder / str(count), CLIENTS)
        ground.prepare()
        fill(ground.first.ledger, count)
        for what, seconds in _rules(ground).items():
            ratio = seconds / few.setdefault(what, seconds)
            title = f"one rule for everything, {count:,} live tokens: {what}"
            table.add_row(title, f"{seconds * 1000:.1f} ms", f"{ratio:.2f}", f"{FEW:,} live tokens")
        table.add_row(f"start to ready, {count:,} live tokens in a file", _started(ground.members[0]), "", "")
        with Database() as database:
            _move(ground, database)
            table.add_row(f"the same as a replica on PostgreSQL, {count:,}", _started(ground.members[0]), "", "")


def _rules(ground: Ground) -> dict[str, float]:
    """Return medians in seconds: until a rule is durable, and until verifiers in processes of their own know it."""
    plan = Plan(verifiers=VERIFIERS, pause=0.05, every=0.3, seconds=600, revocations=RULES, kinds=("everything",))
    took = judged(ground, plan)
    return {
        "durable": statistics.median(asyncio.run(_durable(ground))),
        f"applied, as {VERIFIERS} verifiers say": statistics.median(one.answered for one in took),
        "to the last first refusal": statistics.median(refusals(took)),
    }


async def _durable(ground: Ground) -> list[float]:
    """Return what the calls took that wait for nobody."""
    member, seconds = ground.members[0], list[float]()
    member.start()
    async with aiohttp.ClientSession() as session:
        operator = Brokers(ground.place(), "operator", session)
        for _ in range(RULES):
            await operator.sign_in(member.port, SCOPE)  # the rule before has killed the token
            began, headers = time.perf_counter(), {"Idempotency-Key": str(uuid.uuid4())}
            order = {"selector": {"everything": True}, "reason": "measured"}
            status, _ = await operator.call(member.port, "/v1/revocations", SCOPE, json=order, headers=headers)
            seconds.append(time.perf_counter() - began)
            if status != HTTPStatus.CREATED:
                msg = f"not durable: {status}"
                raise RuntimeError(msg)
    member.stop()
    return seconds


def _started(member: Member) -> str:
    """Return how long a start takes (the median), and the largest resident memory then."""
    seconds, resident = list[float](), list[float]()
    for _ in range(STARTS):
        before = time.perf_counter()
        member.start()
        seconds.append(time.perf_counter() - before)
        resident.append(member.resident())
        member.stop()
    return f"{statistics.median(seconds):.2f} s, {max(resident):.0f} MiB"


def _move(ground: Ground, database: Database) -> None:
    """Move the ledger of a ground, on which nothing runs, into a database."""
    config = ground.first.config
    config.write_text(config.read_text().replace('path = "ledger.db"', f'url = "{database.url}"'))
    command = [sys.executable, "-m", "broker", "db", "move", str(ground.first.ledger), "--config", str(config)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
