"""The clock of a process can be wrong, and of its children, and nothing else of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tests.chaos.member import SKEW

CHILD = "import subprocess, sys, time; print(time.time()); sys.stdout.flush(); {more}"
AGAIN = "subprocess.run([sys.executable, '-c', 'import time; print(time.time())'])"


def test_a_wrong_clock() -> None:
    """Ten minutes fast, in a child as well."""
    environment = {**os.environ, "CHAOS_SKEW": "600", "PYTHONPATH": str(SKEW)}
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(more=AGAIN)], capture_output=True, text=True, check=True, env=environment
    )
    told = [float(line) for line in done.stdout.split()]
    assert len(told) == 2
    assert all(500 < moment - time.time() <= 600 for moment in told)
