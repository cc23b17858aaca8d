"""Short runs of the whole proof, with faults: one broker, and replicas on a real PostgreSQL."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.ground import Ground

REVOKERS, REVOCATIONS = 2, 2
OPTIONS = ("--verifiers", "3", "--clients", "2", "--revokers", str(REVOKERS), "--revocations", str(REVOCATIONS))


@pytest.mark.timeout(300)  # a fault lasts up to 12 s, and a call may need several brokers
@pytest.mark.parametrize("brokers", [(), ("--replicas", "2")], ids=["one broker", "replicas"])
def test_a_short_run(tmp_path: Path, brokers: tuple[str, ...]) -> None:
    """After so many faults, nothing was lost, doubled, or accepted after its end; and there was something to judge."""
    options = [*brokers, *OPTIONS, "--wait", "1", "--minutes", "2", "--faults", "2", "--calm", "0.5"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *options, "--folder", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    counted = json.loads(done.stdout.splitlines()[-1])
    assert counted["revoked"] == REVOKERS * REVOCATIONS
    assert counted["accepted"] > 100
    assert counted["refused"] > 2


def test_what_no_broker_expects(tmp_path: Path) -> None:
    """An exception in a broker's log is found; what a broker expects to go wrong is none."""
    ground = Ground(tmp_path / "run", ("client-1",))
    ground.prepare()
    unknown = '{"event":"upkeep.failed","level":"error","error":["builtins.KeyError at broker.core.rules:1"]}'
    ground.members[0].log.write_text('{"event":"upkeep.failed","code":"rules_stale"}\n' + unknown + "\n")
    assert ground.surprises() == [unknown]
