"""``kill -9`` of a broker with anchors, at any moment: afterwards they hold all of one history, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sqlite3
import time
from pathlib import Path

from broker.core.merkle import Frontier
from broker.ledger.verify import verify_file
from broker.signing.checkpoint import open_note
from tests.support.running_broker import START_SECONDS, RunningBroker
from tests.support.witness import Witness

KILLS = 3


def _leaves(ledger: Path) -> list[bytes]:
    with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as connection:
        return [row[0] for row in connection.execute("SELECT leaf FROM entries ORDER BY seq")]


def _wait_for(file: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while not file.exists():
        assert time.monotonic() < end
        time.sleep(0.05)


def _kinds(ledger: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as connection:
        return {row[0] for row in connection.execute("SELECT DISTINCT kind FROM entries")}


async def test_kills_while_checkpoints_are_placed(tmp_path: Path) -> None:
    """Every checkpoint that is outside is a part of the ledger as it is in the end, of which the last one holds all."""
    broker, file = RunningBroker(tmp_path), tmp_path / "offsite.jsonl"
    await asyncio.to_thread(broker.initialise)
    async with Witness("") as witness:
        with broker.config.open("a") as settings:
            settings.write(
                f'\n[anchors.offsite]\nkind = "file"\npath = "{file}"\nevery_seconds = 1\n'
                f'\n[anchors.w1]\nkind = "witness"\nurl = "{witness.url}"\nvkey = "{witness.vkey}"\n'
                "allow_http = true\nallow_private = true\nevery_seconds = 1\n"
            )
        await asyncio.to_thread(broker.start)
        witness.log_vkey = (await asyncio.to_thread(broker.ask, "keys", "list"))["vkeys"][0]
        await asyncio.to_thread(_wait_for, file)
        for _ in range(KILLS):  # each start is an entry
            await asyncio.sleep(random.uniform(0.0, 1.6))
            await asyncio.to_thread(broker.kill)
            await asyncio.to_thread(broker.start)
        assert await asyncio.to_thread(broker.stop) == 0
    leaves = _leaves(broker.ledger)
    notes = [json.loads(line)["note"] for line in file.read_text().splitlines()]
    held = [open_note(note, witness.log_vkey) for note in notes]
    assert [checkpoint.size for checkpoint in held] == sorted(checkpoint.size for checkpoint in held)
    assert all(Frontier().append(leaves[: each.size]).root() == each.root for each in held)
    assert (held[-1].size, witness.size) == (len(leaves), len(leaves))
    assert len(held) > 1
    assert not {"anchor.failed", "anchor.recovered"} & _kinds(broker.ledger)
    assert verify_file(broker.ledger).problems == ()
