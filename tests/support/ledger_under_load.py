"""A process to be killed: commits tokens and rules to a ledger without end, and prints what was acknowledged.

As one of a family it is given the descriptors of its lock and board. It may be told where to die by itself, as kill -9
would have it: with a rule ``announced`` and not committed, ``committed`` and not answered, or with the log half
``copied`` back.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from sqlalchemy import Connection

from broker.core.change import RateWithin, Unused
from broker.core.errors import EpochMoved
from broker.core.selector import Selector
from broker.ledger.databases import sqlite
from broker.ledger.sharing.family import Family
from broker.ledger.sharing.file_premises import FilePremises
from tests.support.ledgers import NOW, Bench, digest, opened

ISSUERS = 16


async def issue(bench: Bench, worker: int) -> None:
    """Issue tokens one after the other; print each only when it is acknowledged, as a broker releases it then."""
    number = 0
    while True:
        number += 1
        ref = f"tok_{os.getpid()}_{worker}_{number}"
        guards = (Unused(digest(ref), int(NOW) + 60, "assertion"), RateWithin(f"agent/{worker}", 10**9, NOW))
        try:
            await bench.issue(ref, *guards)
        except EpochMoved:
            continue
        os.write(1, f"{ref}\n".encode())


async def revoke(bench: Bench) -> None:
    """Revoke now and then."""
    while True:
        await asyncio.sleep(0.02)
        number = bench.epoch
        try:
            rule = await bench.revoke(Selector(agent=f"agent-{number}"), f"rule_{os.getpid()}_{number}")
        except EpochMoved:
            continue
        os.write(1, f"{rule.id}\n".encode())


def die() -> NoReturn:
    """End as by kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def die_at_commit(bench: Bench, *, applied: bool) -> None:
    """Die at the COMMIT of one of the next rules, before it did anything or after it did everything."""
    premises, dialect = bench.ledger._premises, bench.ledger._writer._engine.dialect
    assert isinstance(premises, FilePremises)
    announce, commit, left = premises.announce, dialect.do_commit, [random.randrange(2, 8)]
    known = [premises.announced]

    def announcing(changed: int) -> None:
        announce(changed)
        left[0] -= changed > known[0]
        known[0] = max(known[0], changed)

    def committing(connection: Any) -> None:  # noqa: ANN401 - the driver's own type
        if applied:
            commit(connection)
        if left[0] <= 0:
            die()
        if not applied:
            commit(connection)

    premises.announce = announcing  # type: ignore[method-assign]
    dialect.do_commit = committing  # type: ignore[method-assign, assignment]


def die_copying() -> None:
    """Die right after some of the log was copied back, before anybody could say so."""

    def copy_back(connection: Connection) -> None:
        copy(connection)
        die()

    copy: Callable[[Connection], None] = sqlite.copy_back
    sqlite.copy_back = copy_back


async def main(path: Path, family: Family | None, death: str | None) -> None:
    """Work until killed."""
    async with opened(path, family=family, sign=lambda size, root: f"{size} {root.hex()}") as bench:
        if death in {"announced", "committed"}:
            die_at_commit(bench, applied=death == "committed")
        elif death == "copied":
            die_copying()
        os.write(1, b"ready\n")
        await asyncio.gather(revoke(bench), *(issue(bench, worker) for worker in range(ISSUERS)))


if __name__ == "__main__":
    place, *rest = sys.argv[1:]
    shared = Family(int(rest[0]), int(rest[1])) if rest else None
    asyncio.run(main(Path(place), shared, rest[2] if len(rest) > 2 else None))
