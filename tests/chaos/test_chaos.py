"""A short run of the whole proof, with faults, on what every machine has: one broker and its verifiers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SECONDS = 8


def test_a_short_run(tmp_path: Path) -> None:
    """After so many faults, nothing was lost, doubled, or accepted after its end; and there was something to judge."""
    options = ["--minutes", str(SECONDS / 60), "--verifiers", "3", "--clients", "2", "--faults", "2", "--calm", "0.5"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *options, "--folder", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    counted = json.loads(done.stdout.splitlines()[-1])
    assert counted["revoked"] > 2
    assert counted["accepted"] > 100
    assert counted["refused"] > 10
