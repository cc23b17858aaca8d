"""The page on proofs says what the code does: its commands run, one after the other, as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.running_broker import TICKETS, RunningBroker

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "prove-what-the-ledger-says.md").read_text()
SCRIPT = Path(__file__).parents[2] / "docs" / "verify_ledger.py"
COMMANDS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def broker(tmp_path: Path) -> RunningBroker:
    """A broker that has issued a token."""
    running = RunningBroker(tmp_path)
    running.initialise()
    running.start()
    return running


def test_the_commands_run(broker: RunningBroker, tmp_path: Path) -> None:
    """By a shell, in one folder; the files that they make are what the page says."""
    key = str(broker.agent("alpha"))
    broker.ask("token", "--agent", "alpha", "--key", key, "--audience", TICKETS, "--scope", "tickets:read")
    entries = broker.ask("ledger", "query", "--kind", "token.issued", "--agent", "alpha")["entries"]
    folder = tmp_path / "auditor"
    folder.mkdir()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "BROKER_CONFIG": str(broker.config),
        "REF": entries[0]["entry"]["ref"],
        "LEDGER": str(broker.ledger),
    }
    try:
        for command in COMMANDS:
            done = subprocess.run(
                ["sh", "-eu", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, command + done.stderr
    finally:
        broker.stop()
    assert len(COMMANDS) == 7
    made = {path.name for path in folder.iterdir()}
    notes = {"monday.note", "tuesday.note"}
    assert made == {"ledger.vkey", "entry.tlog-proof", "entry.json", "ledger-tiles", "other-tiles", *notes}
    for tiles in ("ledger-tiles", "other-tiles"):
        assert {path.name for path in (folder / tiles).iterdir()} == {"checkpoint", "tile"}
    vkey = (folder / "ledger.vkey").read_text().strip()
    second = [sys.executable, str(SCRIPT), str(broker.ledger), "--vkey", vkey, "--note", str(folder / "monday.note")]
    assert subprocess.run(second, capture_output=True, check=False).returncode == 0
