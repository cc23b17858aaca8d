"""The verifier that auditors read agrees with the broker's own, on sound ledgers and on what was done to them."""

from __future__ import annotations

import asyncio
import base64
import gzip
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from broker.ledger.keeping import archiving
from broker.ledger.keeping.archive_file import archives_in
from broker.ledger.verify import verify_file
from tests.support.ledgers import NOW, issued, opened
from tests.support.running_broker import TICKETS, RunningBroker

SCRIPT = Path(__file__).parents[2] / "docs" / "verify_ledger.py"
MOST_LINES = 200
DAY = 24 * 3600.0


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Path]:
    """A ledger with its verifier key, and a checkpoint of it that somebody kept."""
    folder = tmp_path_factory.mktemp("ledger")
    broker = RunningBroker(folder)
    broker.initialise()
    broker.start()
    key = str(broker.agent("alpha"))
    for _ in range(8):
        broker.ask("token", "--agent", "alpha", "--key", key, "--audience", TICKETS, "--scope", "tickets:read")
    vkey = broker.ask("keys", "list")["vkeys"][0]
    broker.stop()
    with closing(sqlite3.connect(broker.ledger)) as database:
        note = database.execute("SELECT note FROM checkpoints WHERE note IS NOT NULL ORDER BY size DESC").fetchone()[0]
    (folder / "note.txt").write_text(note)
    return broker.ledger, str(vkey), folder / "note.txt"


def judged(ledger: Path, *arguments: object) -> tuple[int, str]:
    """Run the script; return its exit code and what it printed."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(ledger), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def changed(sound: Path, folder: Path, change: Callable[[sqlite3.Connection], object]) -> Path:
    """Return a copy of a ledger in which something was changed behind the broker's back."""
    copy = folder / "ledger.db"
    shutil.copy(sound, copy)
    with closing(sqlite3.connect(copy)) as database:
        change(database)
        database.commit()
    return copy


def test_it_is_short_enough_to_be_read() -> None:
    """And needs nothing of the broker."""
    text = SCRIPT.read_text()
    assert len(text.splitlines()) < MOST_LINES
    assert "import broker" not in text
    assert "from broker" not in text


def test_a_sound_ledger(sound: tuple[Path, str, Path], tmp_path: Path) -> None:
    """From the database and from an export, with every signature."""
    ledger, vkey, note = sound
    code, said = judged(ledger, "--vkey", vkey, "--note", note)
    assert code == 0, said
    assert verify_file(ledger).sound
    export = tmp_path / "export.jsonl"
    command = [sys.executable, "-m", "broker", "ledger", "export", "--format", "jsonl", "--file", str(ledger)]
    subprocess.run([*command, "--output", str(export)], check=True, capture_output=True)
    code, again = judged(export, "--vkey", vkey, "--note", note)
    assert code == 0, again
    assert again.split(", ")[:2] == said.split(", ")[:2], "the same size and root"
    lines = export.read_text().splitlines()
    export.write_text("\n".join(line.replace("tickets:read", "tickets:reap") for line in lines) + "\n")
    assert judged(export, "--note", note)[0] == 1
    export.write_text("\n".join(lines[:-1]) + "\n")
    assert judged(export, "--note", note)[0] == 1
    assert judged(tmp_path / "nothing")[0] == 2


@pytest.mark.parametrize("seed", range(24))
def test_both_see_what_was_changed(sound: tuple[Path, str, Path], tmp_path: Path, seed: int) -> None:
    """One byte of an entry, a leaf, a row, the tail, two rows in the other order, a checkpoint: each is found."""
    ledger, vkey, note = sound
    choice = random.Random(seed)

    def spoil(database: sqlite3.Connection) -> None:
        size = database.execute("SELECT count(*) FROM entries").fetchone()[0]
        seq = choice.randrange(1, size - 1)
        if seed % 6 == 0:
            body = bytearray(database.execute("SELECT body FROM entries WHERE seq = ?", (seq,)).fetchone()[0])
            body[choice.randrange(len(body))] ^= 1 << choice.randrange(7)
            database.execute("UPDATE entries SET body = ? WHERE seq = ?", (bytes(body), seq))
        elif seed % 6 == 1:
            database.execute("UPDATE entries SET leaf = ? WHERE seq = ?", (choice.randbytes(32), seq))
        elif seed % 6 == 2:
            database.execute("DELETE FROM entries WHERE seq = ?", (seq,))
        elif seed % 6 == 3:
            database.execute("DELETE FROM entries WHERE seq >= ?", (seq,))
        elif seed % 6 == 4:
            for old, new in ((seq, -1), (seq + 1, seq), (-1, seq + 1)):
                database.execute("UPDATE entries SET seq = ? WHERE seq = ?", (new, old))
        else:
            database.execute("UPDATE checkpoints SET root = ? WHERE size = ?", (choice.randbytes(32), size))

    spoilt = changed(ledger, tmp_path, spoil)
    code, said = judged(spoilt, "--vkey", vkey, "--note", note)
    assert code == 1, said
    assert not verify_file(spoilt).sound


def test_a_tree_that_was_written_anew_differs_from_the_checkpoint_that_was_kept(
    sound: tuple[Path, str, Path], tmp_path: Path
) -> None:
    """Whoever holds the database can make it fit itself, but not what is out of reach."""
    ledger, vkey, note = sound

    def shorten(database: sqlite3.Connection) -> None:
        database.execute("DELETE FROM checkpoints")
        database.execute("DELETE FROM head")
        database.execute("DELETE FROM entries WHERE seq >= (SELECT max(seq) - 2 FROM entries)")

    spoilt = changed(ledger, tmp_path, shorten)
    assert judged(spoilt)[0] == 0
    code, said = judged(spoilt, "--vkey", vkey, "--note", note)
    assert code == 1
    assert "speaks of" in said


def test_a_note_of_another_key(sound: tuple[Path, str, Path], tmp_path: Path) -> None:
    """A forged signature, and one of nobody, are told apart from a good one."""
    ledger, vkey, note = sound
    text = note.read_text()
    forged = tmp_path / "forged.txt"
    forged.write_text(text.replace(text.split("\n")[1], str(int(text.split("\n")[1]) + 1), 1))
    assert "signature is wrong" in judged(ledger, "--vkey", vkey, "--note", forged)[1]
    unsigned = tmp_path / "unsigned.txt"
    unsigned.write_text(text.partition("\n\n")[0] + "\n\n")
    assert "did not sign" in judged(ledger, "--vkey", vkey, "--note", unsigned)[1]


def test_archives_and_what_is_left_of_the_ledger(tmp_path: Path) -> None:
    """Both verifiers read archives and the database as one sequence, and agree on what was done to either."""
    path, folder = tmp_path / "ledger.db", tmp_path / "old"

    async def fill() -> None:
        async with opened(path, sign=_note) as bench:
            await asyncio.gather(*(bench.ledger.commit(issued(f"tok_{number}", 0)) for number in range(600)))
            await bench.ledger.checkpoint()
            for made in archiving.archives(path, folder, NOW + DAY, NOW + DAY, newest=0):
                await bench.ledger.commit(archiving.removal(made, "os:ann", "retention", NOW + DAY))

    asyncio.run(fill())
    (archive,) = archives_in(folder)
    code, said = judged(archive, path)
    assert code == 0, said
    report = verify_file(path, archives=[archive])
    assert report.problems == ()
    assert said.startswith(f"{report.size} entries, root {base64.b64encode(report.root or b'').decode()}")
    assert judged(path)[0] == 1, "without the archive, entries are missing to whoever knows of no archives"
    text = gzip.decompress(archive.read_bytes())
    archive.write_bytes(gzip.compress(text.replace(b"tok_77", b"tok_7x", 1)))
    assert judged(archive, path)[0] == 1
    assert not verify_file(path, archives=[archive]).sound


def _note(size: int, root: bytes) -> str:
    return f"test/audit\n{size}\n{base64.b64encode(root).decode()}\n\n\N{EM DASH} test/audit AAAAAAAA\n"
