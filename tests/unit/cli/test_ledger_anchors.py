"""``broker ledger anchors``: what people and programs are told of the anchors, and with which exit code."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.broker_app import Template, with_settings
from tests.support.broker_thread import BrokerThread, broker_thread
from tests.support.shell import Shell

ENOUGH_SECONDS = 30.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the anchor's file is."""
    return tmp_path / "offsite.jsonl"


@pytest.fixture
def anchored(template: Template, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BrokerThread]:
    """A running broker with a file anchor, which commands find by the environment."""
    settings = f'\n[anchors.offsite]\nkind = "file"\npath = {json.dumps(str(file))}\nevery_seconds = 1\n'
    with broker_thread(with_settings(template, tmp_path / "template", settings), tmp_path / "home") as running:
        monkeypatch.setenv("BROKER_CONFIG", str(running.config))
        monkeypatch.setenv("BROKER_PORT", str(running.port))
        yield running


def wait_for(file: Path) -> None:
    """Wait until the anchor has taken a checkpoint."""
    end = time.monotonic() + ENOUGH_SECONDS
    while not (file.exists() and file.read_text().endswith("\n")):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_without_anchors(shell: Shell, broker: BrokerThread) -> None:
    """It is said that the ledger stands alone."""
    done = shell("ledger", "anchors")
    assert done.code == 0
    assert done.out.startswith("No anchors are configured")
    assert shell("ledger", "anchors", "--check", "--json").json == {"anchors": []}


def test_with_an_anchor(shell: Shell, anchored: BrokerThread, file: Path) -> None:
    """Each is a line; with --check it says what is held, and that it agrees."""
    wait_for(file)
    done = shell("ledger", "anchors", "--check")
    assert done.code == 0, done
    title, line = done.out.splitlines()
    assert title.split() == [
        "name",
        "kind",
        "entries",
        "placed",
        "lag",
        "alarm",
        "last",
        "error",
        "holds",
        "now",
        "verdict",
    ]
    assert line.startswith("offsite  file")
    assert line.endswith("agrees with the ledger")
    (told,) = shell("ledger", "anchors", "--json").json["anchors"]
    assert (told["name"], told["alarm"]) == ("offsite", False)
    assert "check" not in told


def test_an_anchor_that_contradicts(shell: Shell, anchored: BrokerThread, file: Path) -> None:
    """The exit code is that of a ledger that is not what it was; without --check the alarm is shown."""
    wait_for(file)
    file.write_text(json.dumps({"note": "somebody/else\n1\nAAAA\n\n— x AAAA\n", "placed_at": 1}) + "\n")
    done = shell("ledger", "anchors", "--check")
    assert done.code == 4
    assert "anchor_inconsistent" in done.out
    shown = shell("ledger", "anchors")
    assert shown.code == 0
    assert "ALARM" in shown.out
