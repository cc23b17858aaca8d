"""kill -9 while entries are archived and removed: none is ever lost, and the next run completes the work."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from broker.ledger.keeping.archive_file import archives_in
from broker.ledger.verify import verify_file
from tests.support.ledgers import NOW, issued, opened

DAY = 24 * 3600.0
LATER = NOW + 300 * DAY
SIZE = 900

PROGRAM = """
import asyncio, os, signal, sys
from pathlib import Path
from broker.ledger.keeping import archiving
from tests.support.ledgers import FixedClock, opened

path, folder, last = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
seen = 0

def watch(event, arguments):
    global seen
    if event in {"open", "os.rename", "fcntl.flock", "sqlite3.connect", "os.remove"}:
        seen += 1
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with opened(path, clock=FixedClock(%f)) as bench:
        for made in archiving.archives(path, folder, %f, %f, newest=100):
            await bench.ledger.commit(archiving.removal(made, "os:ann", "retention", %f))

sys.addaudithook(watch)
asyncio.run(main())
print(seen)
"""


def run(path: Path, folder: Path, last: int) -> subprocess.CompletedProcess[str]:
    """Archive and remove in a process that is killed before its file operation number ``last``."""
    program = PROGRAM % (LATER, NOW + DAY, LATER, LATER)
    command = [sys.executable, "-c", program, str(path), str(folder), str(last)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed ledger of old entries, with a checkpoint of them."""
    path = tmp_path / "ledger.db"

    async def fill() -> None:
        async with opened(path, sign=lambda size, root: f"{size} {root.hex()}") as bench:
            await asyncio.gather(*(bench.ledger.commit(issued(f"tok_{number}", 0)) for number in range(SIZE)))

    asyncio.run(fill())
    return path


def test_killed_at_any_point_nothing_is_lost(path: Path, tmp_path: Path) -> None:
    """After each kill, ledger and archives together still have every entry; at last the work is done, once."""
    folder, killed = tmp_path / "old", 0
    for last in (*range(2, 40, 6), 1_000_000):
        done = run(path, folder, last)
        killed += done.returncode == -signal.SIGKILL
        assert done.returncode in {0, -signal.SIGKILL}, done.stderr
        report = verify_file(path, archives=archives_in(folder) if folder.exists() else [])
        assert report.problems == ()
        assert report.archived == 0
        assert report.size >= SIZE
    assert killed >= 4
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT min(seq) FROM entries").fetchone() == (768,)
        query = "SELECT count(*) FROM entries WHERE kind = 'ledger.archived'"
        assert database.execute(query).fetchone() == (1,)
    assert len(archives_in(folder)) == 1


WRITE = """
import resource, sys
from pathlib import Path
from broker.ledger.keeping import archiving

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
print(list(archiving.archives(Path(sys.argv[1]), Path(sys.argv[2]), %f, %f, newest=100)))
"""


def test_a_file_that_cannot_grow(path: Path, tmp_path: Path) -> None:
    """If there is no room for an archive, that is an error, nothing is left of it, and the ledger is as it was."""
    folder, before = tmp_path / "old", path.read_bytes()
    command = [sys.executable, "-c", WRITE % (NOW + DAY, LATER), str(path), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert "ledger_unavailable" in done.stderr
    assert list(folder.iterdir()) == []
    assert path.read_bytes() == before
