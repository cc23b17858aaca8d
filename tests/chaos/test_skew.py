"""The clock of a process can be wrong, and of its children, and nothing else of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.chaos.member import SKEW, Member

CHILD = "import time; input(); print(time.time()); input(); print(time.time())"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


def test_a_wrong_clock(tmp_path: Path) -> None:
    """Ten minutes fast, and ten minutes slow while it runs, in a child as well."""
    member = Member(tmp_path / "broker.toml", 1)
    member.clock.write_bytes(bytes(8))
    environment = {**os.environ, "CHAOS_SKEW": str(member.clock), "PYTHONPATH": str(SKEW)}
    for program in (CHILD, PARENT):
        with subprocess.Popen(
            [sys.executable, "-uc", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for ahead in (600.0, -600.0):
                member.set_clock(ahead)
                before = time.time()
                process.stdin.write("\n")
                process.stdin.flush()
                told = float(process.stdout.readline())
                assert before + ahead <= told <= time.time() + ahead
