"""Who leads among the processes of one ledger."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from broker.ledger.sharing.leadership import FileLeadership, SoleLeader

LEADS = """
import sys, time
from pathlib import Path
from broker.ledger.sharing.leadership import FileLeadership
leadership = FileLeadership.beside(Path(sys.argv[1]))
print(leadership.leads(), flush=True)
time.sleep(600)
"""


def test_one_leads_until_it_gives_that_up(tmp_path: Path) -> None:
    """Whoever asks first; the next one as soon as it asks after that."""
    first, second = (FileLeadership.beside(tmp_path / "ledger.db") for _ in range(2))
    assert [first.leads(), second.leads(), first.leads()] == [True, False, True]
    first.close()
    assert [first.leads(), second.leads()] == [False, True]
    second.close()
    second.close()


def test_leadership_passes_on_when_its_process_is_killed(tmp_path: Path) -> None:
    """By the kernel, without any time-out."""
    command = [sys.executable, "-c", LEADS, str(tmp_path / "ledger.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]) as leader:
        assert leader.stdout is not None
        assert leader.stdout.readline() == "True\n"
        mine = FileLeadership.beside(tmp_path / "ledger.db")
        assert not mine.leads()
        leader.kill()
        leader.wait()
        deadline = time.monotonic() + 30
        while not mine.leads():
            assert time.monotonic() < deadline
        mine.close()


def test_a_process_that_is_alone_leads() -> None:
    """There is nobody to ask."""
    assert SoleLeader().leads()
