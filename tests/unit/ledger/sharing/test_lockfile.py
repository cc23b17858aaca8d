"""One broker per ledger: other processes, other hosts and network file systems are refused, with the reason."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from broker.core.errors import Code, Unavailable
from broker.ledger.sharing import lockfile
from broker.ledger.sharing.file_premises import FilePremises
from broker.ledger.sharing.lockfile import FRESH_SECONDS, LedgerLock, Owner, filesystem_of, network_filesystem
from tests.support.ledgers import NOW, FixedClock, opened

HOLDER = """
import sys
from pathlib import Path
from broker.clock import SystemClock
from broker.ledger.sharing.file_premises import FilePremises
from broker.ledger.sharing.lockfile import LedgerLock
lock = LedgerLock.acquire(Path(sys.argv[1]), SystemClock())
print("held", flush=True)
sys.stdin.read()
"""

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:40 / /mnt/share rw,relatime - nfs4 server:/export rw
31 22 0:41 / /mnt/with\\040space rw,relatime - cifs //server/share rw
32 30 0:42 / /mnt/share/local rw,relatime - tmpfs tmpfs rw
33 22 0:43 / /over rw - nfs server:/a rw
34 22 0:44 / /over rw - xfs /dev/vdb rw
35 22 0:45 / /home/me/remote rw - fuse.sshfs me@host: rw
a line that is none
"""


def record(path: Path, **members: object) -> None:
    """Leave a record as another host would have."""
    owner = {"token": "t", "boot": "another-kernel", "host": "elsewhere", "pid": 7, "at": NOW, **members}
    Path(f"{path}.lock").write_text(json.dumps(owner))


def acquire(path: Path, now: float = NOW) -> None:
    """Take the lock and give it back."""
    LedgerLock.acquire(path, FixedClock(now)).release()


@pytest.mark.parametrize(
    ("path", "kind", "network"),
    [
        ("/var/lib/broker", "ext4", None),
        ("/mnt/share", "nfs4", "nfs4"),
        ("/mnt/share/deep/er", "nfs4", "nfs4"),
        ("/mnt/shared", "ext4", None),
        ("/mnt/share/local/x", "tmpfs", None),
        ("/mnt/with space/x", "cifs", "cifs"),
        ("/over/x", "xfs", None),
        ("/home/me/remote", "fuse.sshfs", "fuse.sshfs"),
    ],
)
def test_the_file_system_of_a_path(path: str, kind: str, network: str | None) -> None:
    """The innermost mount counts, and the last of several on one point."""
    assert filesystem_of(Path(path), MOUNTS) == kind
    assert network_filesystem(Path(path), MOUNTS) == network


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text says what is wrong with it and what to do; nothing is made there."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 1 0:1 / {tmp_path} rw - nfs4 server:/export rw\n")
    monkeypatch.setattr(lockfile, "_MOUNTS", mounts)
    with pytest.raises(Unavailable) as caught:
        acquire(tmp_path / "ledger.db")
    assert "network file system (nfs4)" in caught.value.public
    assert "local disk" in caught.value.public
    assert not (tmp_path / "ledger.db.lock").exists()


def test_another_process_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    """While a process holds the ledger, others are refused; when it dies, even by force, the ledger is free."""
    path = tmp_path / "ledger.db"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Unavailable) as caught:
            acquire(path)
        assert caught.value.code is Code.LEDGER_UNAVAILABLE
        assert f"process id {holder.pid}" in caught.value.public
        holder.kill()
    acquire(path)


async def test_the_same_ledger_is_not_opened_twice(tmp_path: Path) -> None:
    """Not even by the same process."""
    async with opened(tmp_path / "ledger.db"):
        with pytest.raises(Unavailable):
            async with opened(tmp_path / "ledger.db"):
                pass
    async with opened(tmp_path / "ledger.db"):
        pass


@pytest.mark.parametrize("age", [0.0, FRESH_SECONDS - 1, 1 - FRESH_SECONDS])
def test_a_living_broker_under_another_kernel_is_seen_by_its_heartbeat(tmp_path: Path, age: float) -> None:
    """Although the lock was granted, a fresh record of another host is a reason to stay away."""
    path = tmp_path / "ledger.db"
    record(path, at=NOW - age)
    with pytest.raises(Unavailable) as caught:
        acquire(path)
    assert "process id 7 on host 'elsewhere'" in caught.value.public


def test_a_dead_broker_is_no_hindrance(tmp_path: Path) -> None:
    """An old heartbeat of another host, a fresh one of this kernel without a lock, and rubbish are passed over."""
    path = tmp_path / "ledger.db"
    record(path, at=NOW - FRESH_SECONDS)
    acquire(path)
    record(path, boot=lockfile._here().boot)
    acquire(path)
    Path(f"{path}.lock").write_text("{rubbish")
    acquire(path)


def test_a_lock_given_back_can_be_taken_at_once_by_another_host(tmp_path: Path) -> None:
    """Giving back empties the record, so that a move to another host does not have to wait."""
    path = tmp_path / "ledger.db"
    acquire(path)
    assert Path(f"{path}.lock").read_bytes() == b""


def test_the_heartbeat_says_when(tmp_path: Path) -> None:
    """Each beat renews the time in the record."""
    path, clock = tmp_path / "ledger.db", FixedClock()
    lock = LedgerLock.acquire(path, clock)
    clock.time += 5
    lock.beat()
    assert msgspec.json.decode(Path(f"{path}.lock").read_bytes(), type=Owner).at == NOW + 5
    lock.check()
    lock.release()


async def test_a_broker_whose_ledger_was_taken_over_writes_no_more(tmp_path: Path) -> None:
    """Should another host take the lock file over, this one notices by its next beat and stops."""
    path = tmp_path / "ledger.db"
    async with opened(path) as bench:
        await bench.issue("tok_1")
        record(path)
        assert isinstance(bench.ledger._premises, FilePremises)
        bench.ledger._premises._lock.beat()
        with pytest.raises(Unavailable) as caught:
            await bench.issue("tok_2")
        assert "'elsewhere'" in caught.value.public
    assert b"elsewhere" in Path(f"{path}.lock").read_bytes(), "the record of the one who has it now stays"
