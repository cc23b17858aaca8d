"""``broker ledger tiles``: static files that prove the ledger, written once, complete after any crash."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.core.merkle import inclusion_proof, leaf_hash, verify_inclusion
from broker.core.tiles import Tile, cut_bundle, cut_hashes, subtree_root, tiles_of
from broker.signing.checkpoint import Checkpoint, open_note, sign_checkpoint, verifier_key
from tests.support.broker_thread import BrokerThread
from tests.support.ledgers import noted, opened
from tests.support.shell import Shell

NAME = "broker.example/audit"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VKEY = verifier_key(NAME, KEY.public_key())
SIZES = (700, 1_100)
NEW = {
    "tile/0/002",
    "tile/0/003",
    "tile/0/004.p/76",
    "tile/1/000.p/4",
    "tile/entries/002",
    "tile/entries/003",
    "tile/entries/004.p/76",
}
"""What the grown ledger has more."""


def sign(size: int, root: bytes) -> str:
    """Sign a checkpoint."""
    return sign_checkpoint(Checkpoint(NAME, size, root), NAME, KEY)


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A closed ledger of some size, and the same when it had grown; not to be changed."""
    folder = tmp_path_factory.mktemp("ledgers")
    paths = tuple(folder / f"{size}.db" for size in SIZES)

    async def grow(path: Path, size: int) -> None:
        async with opened(path, sign=sign) as bench:
            for start in range(bench.ledger.size, size, 400):
                await asyncio.gather(*(bench.ledger.commit(noted(n=n)) for n in range(start, min(start + 400, size))))

    asyncio.run(grow(paths[0], SIZES[0]))
    shutil.copy(paths[0], paths[1])
    asyncio.run(grow(paths[1], SIZES[1]))
    return paths[0], paths[1]


def files(folder: Path) -> dict[str, bytes]:
    """Return all files by their names."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check(folder: Path, vkey: str) -> int:
    """Verify everything with nothing but the files; return how many entries there are."""
    head = open_note((folder / "checkpoint").read_text(), vkey)

    def hashes(level: int, start: int, end: int) -> list[bytes]:
        count = head.size >> (8 * level)
        number = start // 256
        tile = Tile(level, number, min(256, count - number * 256))
        return cut_hashes((folder / "tile" / tile.path).read_bytes())[start - tile.start : end - tile.start]

    subtree = partial(subtree_root, hashes)
    assert subtree(0, head.size) == head.root
    for bundle in tiles_of(None, head.size):
        entries = cut_bundle((folder / "tile" / bundle.path).read_bytes())
        assert len(entries) == bundle.width
        for place, entry in enumerate(entries[::50]):
            seq = bundle.start + place * 50
            proof = inclusion_proof(subtree, seq, head.size)
            assert verify_inclusion(leaf_hash(entry), seq, head.size, proof, head.root)
    return head.size


def test_from_a_file_and_again_when_it_has_grown(shell: Shell, ledgers: tuple[Path, Path], tmp_path: Path) -> None:
    """What is there is written once; only what is new is added, and the older checkpoint's tiles stay good."""
    folder = tmp_path / "a" / "tiles"
    done = shell("ledger", "tiles", folder, "--file", ledgers[0], "--json")
    assert done.code == 0, done.err
    assert check(folder, VKEY) == done.json["entries"] == 700
    before = files(folder)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert shell("ledger", "tiles", folder, "--file", ledgers[0], "--json").json["written"] == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert shell("ledger", "tiles", folder, "--file", ledgers[1]).out.startswith("The tiles are complete\n")
    assert check(folder, VKEY) == 1_100
    after = files(folder)
    assert {name for name in before if after[name] != before[name]} == {"checkpoint"}
    assert after.keys() - before.keys() == NEW
    for path in (folder, *folder.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, "for its owner alone"


def test_from_a_broker(shell: Shell, broker: BrokerThread, tmp_path: Path) -> None:
    """The same, through the API."""
    vkey = shell("ledger", "key").out.strip()
    folder = tmp_path / "tiles"
    assert shell("ledger", "tiles", folder).code == 0
    size = check(folder, vkey)
    assert shell("ledger", "tiles", folder).code == 0
    assert check(folder, vkey) > size


class CrashError(Exception):
    """The process ends here."""


@pytest.mark.parametrize("steps", range(9))
def test_a_crash_at_any_point(
    shell: Shell, ledgers: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """The checkpoint never speaks of what is not there, and another run completes it."""
    folder = tmp_path / "tiles"
    assert shell("ledger", "tiles", folder, "--file", ledgers[0]).code == 0
    before = files(folder)
    real, left = Path.replace, iter(range(steps))

    def replace(path: Path, target: Path) -> Path:
        if next(left, None) is None:
            raise CrashError
        return real(path, target)

    with monkeypatch.context() as crashing:
        crashing.setattr(Path, "replace", replace)
        crashed = shell("ledger", "tiles", folder, "--file", ledgers[1]).code
    assert (crashed == 0, check(folder, VKEY)) == ((True, 1_100) if steps == 8 else (False, 700))
    assert shell("ledger", "tiles", folder, "--file", ledgers[1], "--json").json["written"] == 8 - steps
    assert check(folder, VKEY) == 1_100
    assert files(folder).keys() - before.keys() == NEW


def test_killed(ledgers: tuple[Path, Path], tmp_path: Path) -> None:
    """With signal 9, as soon as there are some files; run again, it is complete."""
    folder = tmp_path / "tiles"
    command = [sys.executable, "-m", "broker", "ledger", "tiles", str(folder), "--file", str(ledgers[1])]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (folder / "tile" / "0").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command, check=True, capture_output=True)
    assert check(folder, VKEY) == 1_100


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        ("tile/0/001", "do not lead to the root"),
        ("tile/0/002.p/188", "was changed"),
        ("tile/1/000.p/2", "was changed"),
    ],
)
def test_a_changed_folder(shell: Shell, ledgers: tuple[Path, Path], tmp_path: Path, spoil: str, told: str) -> None:
    """Nothing is built on files that were changed, and nothing is left of the attempt."""
    folder = tmp_path / "tiles"
    shell("ledger", "tiles", folder, "--file", ledgers[0])
    content = bytearray((folder / spoil).read_bytes())
    content[40] ^= 1
    (folder / spoil).write_bytes(content)
    (folder / "checkpoint").unlink()
    before = files(folder)
    done = shell("ledger", "tiles", folder, "--file", ledgers[0])
    assert (done.code, told in done.err) == (4, True), done.err
    assert files(folder) == before


def test_a_torn_tile(shell: Shell, ledgers: tuple[Path, Path], tmp_path: Path) -> None:
    """A full tile that is too short, or longer, is found."""
    folder = tmp_path / "tiles"
    for length in (0, 8191, 8160):
        shutil.rmtree(folder, ignore_errors=True)
        shell("ledger", "tiles", folder, "--file", ledgers[0])
        (folder / "tile/0/001").write_bytes((folder / "tile/0/001").read_bytes()[:length])
        assert shell("ledger", "tiles", folder, "--file", ledgers[1]).code == 4


def test_another_or_an_older_ledger(shell: Shell, ledgers: tuple[Path, Path], tmp_path: Path) -> None:
    """A folder belongs to one ledger, and does not go back."""
    folder = tmp_path / "tiles"
    shell("ledger", "tiles", folder, "--file", ledgers[1])
    before = files(folder)
    older = shell("ledger", "tiles", folder, "--file", ledgers[0])
    assert (older.code, "already" in older.err) == (4, True)
    (folder / "checkpoint").write_text(sign(1_050, bytes(32)))
    shutil.rmtree(folder / "tile")
    other = shell("ledger", "tiles", folder, "--file", ledgers[1])
    assert (other.code, "signs for" in other.err) == (4, True), other.err
    assert not (folder / "tile").exists() or files(folder).keys() == {"checkpoint"}
    (folder / "checkpoint").write_text("my notes")
    assert shell("ledger", "tiles", folder, "--file", ledgers[1]).code == 2
    assert (folder / "checkpoint").read_text() == "my notes"
    assert "checkpoint" in before


def test_a_damaged_ledger(shell: Shell, ledgers: tuple[Path, Path], tmp_path: Path) -> None:
    """Entries that do not lead to what was signed are not written down as if they did."""
    copy, folder = tmp_path / "copy.db", tmp_path / "tiles"
    shutil.copy(ledgers[0], copy)
    good = {"tile/0/000", "tile/entries/000"}
    with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as database:
        database.execute("UPDATE entries SET body = '{}' WHERE seq = 400")
        assert shell("ledger", "tiles", folder, "--file", copy).code == 4
        database.execute("UPDATE entries SET body = CAST('{}' AS BLOB) WHERE seq = 400")
        done = shell("ledger", "tiles", folder, "--file", copy)
        assert (done.code, "do not lead to the root" in done.err) == (4, True)
        assert files(folder).keys() == good, "what was read before the damage is kept, what is in doubt is not"
        database.execute("DELETE FROM entries WHERE seq = 400")
        done = shell("ledger", "tiles", folder, "--file", copy)
        assert (done.code, "not all of the entries 256 to 511" in done.err) == (1, True)
        assert files(folder).keys() == good


def test_where_nothing_can_be_written(shell: Shell, ledgers: tuple[Path, Path], tmp_path: Path) -> None:
    """One line says so."""
    (tmp_path / "file").write_text("")
    done = shell("ledger", "tiles", tmp_path / "file" / "tiles", "--file", ledgers[0])
    assert (done.code, done.err.count("\n")) == (2, 1)
