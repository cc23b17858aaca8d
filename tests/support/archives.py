"""A ledger that is old enough to be archived, and archiving it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from broker.core.selector import Selector
from broker.ledger.keeping import archiving
from tests.support.ledgers import NOW, Bench, issued, opened, registered

DAY = 24 * 3600.0
LATER = NOW + 300 * DAY
SIZE = 1000
SIGNATURE = "signed:"


def sign(size: int, root: bytes) -> str:
    """Make a note that can be told from one of somebody else."""
    return f"{SIGNATURE}{size}:{root.hex()}"


def open_note(note: str) -> tuple[int, bytes]:
    """Read a note that was signed."""
    if not note.startswith(SIGNATURE):
        msg = "the signature is wrong"
        raise ValueError(msg)
    size, root = note.removeprefix(SIGNATURE).split(":")
    return int(size), bytes.fromhex(root)


async def fill(path: Path) -> Path:
    """Make a ledger of 1000 old entries, with an agent and a rule among the first, and three checkpoints."""
    async with opened(path, sign=sign) as bench:
        await bench.ledger.commit(registered("triage"))
        await bench.revoke(Selector(agent="agent-x"))
        for first, end in ((2, 100), (100, 600), (600, SIZE)):
            numbers = range(first, end)
            more = [issued(f"tok_{n}", 1, agent=f"agent-{n}", purpose="caf\u00e9 \x01") for n in numbers]
            await asyncio.gather(*map(bench.ledger.commit, more))
            await bench.ledger.checkpoint()
    return path


async def remove(bench: Bench, folder: Path) -> None:
    """Archive, and remove what was archived."""
    for each in archiving.archives(bench.path, folder, NOW + DAY, LATER, newest=100):
        await bench.ledger.commit(archiving.removal(each, "os:ann", "retention", LATER))
