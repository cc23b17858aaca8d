"""``broker ledger archive``: what the settings allow, and what other commands say of entries that are gone."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from broker.ledger.keeping import archiving
from tests.support.broker_thread import BrokerThread
from tests.support.ledgers import NOW, issued, opened
from tests.support.shell import Shell

DAY = 24 * 3600.0
SIZE = 600


@pytest.fixture
def archived(tmp_path: Path) -> tuple[Path, Path]:
    """A ledger whose first 512 entries are in an archive, and the folder of that."""
    path, folder = tmp_path / "ledger.db", tmp_path / "old"

    async def work() -> None:
        async with opened(path, sign=lambda size, root: f"{size} {root.hex()}") as bench:
            await asyncio.gather(*(bench.ledger.commit(issued(f"tok_{number}", 0)) for number in range(SIZE)))
            await bench.ledger.checkpoint()
            for made in archiving.archives(path, folder, NOW + DAY, NOW + DAY, newest=0):
                await bench.ledger.commit(archiving.removal(made, "os:ann", "retention", NOW + DAY))

    asyncio.run(work())
    return path, folder


def test_verifying_with_and_without_archives(shell: Shell, archived: tuple[Path, Path]) -> None:
    """Without them, the entries are said not to have been looked at; with the folder, all is verified."""
    path, folder = archived
    alone = shell("ledger", "verify", "--file", path)
    assert alone.code == 0
    assert "entries 0 to 511: archived: not looked at" in alone.out
    assert "As entry 600 says, 512 entries are in archives" in alone.out
    together = shell("ledger", "verify", "--file", path, "--archive", folder, "--json").json
    assert (together["sound"], together["archived"], together["checked"]) == (True, 0, SIZE + 1)
    (file,) = folder.iterdir()
    assert shell("ledger", "verify", "--file", file).code == 0
    file.write_bytes(file.read_bytes()[:-20])
    assert shell("ledger", "verify", "--file", path, "--archive", folder).code == 3


def test_an_export_leaves_nothing_out_unsaid(shell: Shell, archived: tuple[Path, Path], tmp_path: Path) -> None:
    """From a place whose entries are gone it is an error that says where the rest begins; no cursor moves."""
    path, _ = archived
    cursor = tmp_path / "cursor"
    done = shell("ledger", "export", "--file", path, "--cursor", cursor)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("broker: archived: entries 0 to 511 were archived and removed")
    assert not cursor.exists()
    rest = shell("ledger", "export", "--file", path, "--since", "512").out.splitlines()
    assert [json.loads(line)["seq"] for line in rest] == list(range(512, SIZE + 1))


def test_a_report_on_what_is_left(shell: Shell, archived: tuple[Path, Path]) -> None:
    """The archive is told, and that its entries were not looked at."""
    path, _ = archived
    text = shell("report", "--file", path, "--since", "2026-01-01T00:00:00Z", "--until", "2030-01-01T00:00:00Z").out
    assert "| 600 | " in text
    assert r"| 0 | 512 | entries-000000000000-000000000512\.jsonl\.gz |" in text
    assert "entries 0 to 511" in text


def test_what_the_settings_allow(shell: Shell, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is removed unless the settings say after how long; and nothing young ever is."""
    old, ledger = tmp_path / "old", tmp_path / "ledger.db"
    ledger.write_bytes((made / "ledger.db").read_bytes())
    monkeypatch.setenv("BROKER_LEDGER_PATH", str(ledger))
    archive = ("ledger", "archive", old, "--config", made / "broker.toml")
    for unusable in ((), ("--remove",), ("--before", "1h", "--reason", "x"), ("--before", "soon")):
        assert shell(*archive, *unusable).code == 2, unusable
    done = shell(*archive, "--before", "1h", "--remove", "--reason", "x")
    assert (done.code, "retain_days is not set" in done.err) == (2, True)
    assert shell(*archive, "--before", "1h", "--json").json["archives"] == []
    monkeypatch.setenv("BROKER_LEDGER_RETAIN_DAYS", "182")
    assert shell(*archive).code == 2, "less than six months"
    monkeypatch.setenv("BROKER_LEDGER_RETAIN_DAYS", "183")
    done = shell(*archive, "--before", "1s", "--remove", "--reason", "x")
    assert done.code == 0, done.err
    assert "Nothing is old enough" in done.out
    assert list(old.iterdir()) == []


def test_a_running_broker_keeps_its_ledger(
    shell: Shell, broker: BrokerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is removed under a broker; writing archives beside it is no harm."""
    monkeypatch.setenv("BROKER_LEDGER_RETAIN_DAYS", "200")
    archive = ("ledger", "archive", tmp_path / "old")
    done = shell(*archive, "--remove", "--reason", "x")
    assert done.code == 3
    assert "has this ledger open" in done.err
    assert shell(*archive).code == 0
