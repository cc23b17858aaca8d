"""``broker exec`` with real processes: programs get their secrets and their signals, and no lease outlives them."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.leases import BACKENDS, POLICY
from tests.support.running_broker import RunningBroker

BROKER = (sys.executable, "-m", "broker")
LOGGER = Path(__file__).parents[1] / "support" / "signal_logger.py"
SHARED = Path("/dev/shm")
SECONDS = 30.0


def until(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it never came to that")


@dataclass
class Agents:
    """A running broker and the agent whose programs are run."""

    broker: RunningBroker
    key: Path

    def command(self, *options: object) -> list[str]:
        """Return the command line of ``broker exec`` for the agent, up to the program."""
        acting = ("--agent", "alpha", "--key", self.key, "--config", self.broker.config)
        return [*BROKER, "exec", *map(str, (*acting, *options)), "--"]

    def run(self, *options: object, program: Sequence[object], **more: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401 - of run
        """Run a program to its end."""
        command = [*self.command(*options), *map(str, program)]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60, start_new_session=True, **more
        )

    def leases(self, **query: str) -> list[dict[str, Any]]:
        """Return the agent's leases, the youngest first."""
        options = [part for name, value in query.items() for part in (f"--{name}", value)]
        listed: list[dict[str, Any]] = self.broker.ask("leases", "list", "--agent", "alpha", *options)["leases"]
        return listed

    def is_dead(self, because: str = "returned") -> bool:
        """Whether the youngest lease is revoked, and why."""
        lease = self.leases()[0]
        return (lease["state"], lease["because"]) == ("revoked", because)


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agents]:
    """A broker with secrets to lease, in a process of its own."""
    policy = POLICY.replace('"revocations:write", "leases:read"', '"revocations:write", "agents:write", "leases:read"')
    running = RunningBroker(tmp_path_factory.mktemp("exec"), policy=policy.replace("live_leases: 5", "live_leases: 50"))
    running.initialise()
    with running.config.open("a") as file:
        file.write(BACKENDS)
    running.start()
    key = running.agent("alpha")
    yield Agents(running, key)
    running.stop()


@dataclass
class Logger:
    """A signal logger under ``broker exec``."""

    folder: Path

    @property
    def arguments(self) -> list[str]:
        """How it is started."""
        return [sys.executable, str(LOGGER), str(self.folder / "log"), str(self.folder / "end")]

    @property
    def lines(self) -> list[str]:
        """What it wrote after it was ready."""
        return self._all()[1:]

    def ready(self) -> tuple[int, int, str]:
        """Wait until it runs; return its process, its process group, and its secret."""
        until(lambda: bool(self._all()))
        _, process, group, secret = self._all()[0].split()
        return int(process), int(group), secret

    def wrote(self, *lines: str) -> None:
        """Wait until it wrote so many lines, and a little longer: they are these, and no more."""
        until(lambda: len(self.lines) >= len(lines))
        time.sleep(0.3)
        assert self.lines == list(lines)

    def end(self) -> None:
        """Let it end with 5."""
        (self.folder / "end").touch()

    def _all(self) -> list[str]:
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def logger(tmp_path: Path) -> Logger:
    """One for this test."""
    return Logger(tmp_path)


@pytest.fixture
def running(agents: Agents, logger: Logger) -> Iterator[subprocess.Popen[str]]:
    """``broker exec`` with a logger, in a session of its own, without a terminal."""
    command = [*agents.command("--lease", "db"), *logger.arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    logger.ready()
    yield process
    logger.end()
    process.communicate(timeout=SECONDS)


# --- secrets


def test_a_program_with_a_secret(agents: Agents) -> None:
    """It is in the environment and nowhere else; the exit code is the program's, and the secret is dead then."""
    script = "import os, sys; print(os.environ['DB'], file=open(sys.argv[1], 'w')); sys.exit(7)"
    path = agents.broker.folder / "seen"
    done = agents.run("--lease", "db", program=[sys.executable, "-c", script, path])
    secret = path.read_text().strip()
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")
    assert len(secret) >= 32
    until(agents.is_dead)
    assert secret not in agents.broker.log.read_text()


def test_variables_and_files(agents: Agents) -> None:
    """Each where it was asked for; a secret that goes to two places is one lease; the file is gone afterwards."""
    script = (
        "import json, os, stat; path = os.environ['THERE'];"
        "print(json.dumps([os.environ['ONE'], json.load(open(path)), oct(os.stat(path).st_mode), path]))"
    )
    before = len(agents.leases())
    options = ("--lease", "db=ONE", "--file", "db=THERE", "--encrypted")
    done = agents.run(*options, program=[sys.executable, "-c", script])
    value, data, mode, path = json.loads(done.stdout)
    assert (data, mode) == ({"value": value}, "0o100600")
    assert Path(path).is_relative_to(SHARED)
    assert not Path(path).parent.exists()
    assert len(agents.leases()) == before + 1


def test_input_and_output_are_the_programs(agents: Agents) -> None:
    """Nothing is read or written by the command itself."""
    done = agents.run("--lease", "db", program=["sh", "-c", "cat; echo problem >&2"], input="hello\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "problem\n")


def test_no_secret_on_any_command_line(agents: Agents, running: subprocess.Popen[str], logger: Logger) -> None:
    """Neither on the program's nor on the command's own; and not in the command's environment."""
    process, _, secret = logger.ready()
    for pid in (process, running.pid):
        assert secret.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert secret.encode() not in Path(f"/proc/{running.pid}/environ").read_bytes()
    assert secret.encode() in Path(f"/proc/{process}/environ").read_bytes()


def test_what_is_refused_leaves_nothing(agents: Agents) -> None:
    """If one secret is refused, those before it are given back, and nothing is started."""
    mark = agents.broker.folder / "started"
    done = agents.run("--lease", "db", "--lease", "other", program=["touch", mark])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("broker: secret_not_allowed: ")
    assert not mark.exists()
    until(agents.is_dead)


@pytest.mark.parametrize(
    ("options", "program"),
    [
        ((), ["true"]),
        (("--lease", "db"), ["no-such-program"]),
        (("--lease", "db=DB", "--file", "db"), ["true"]),
        (("--lease", "1"), ["true"]),
        (("--lease", "db", "--ttl", "x"), ["true"]),
    ],
)
def test_what_makes_no_sense(agents: Agents, options: tuple[str, ...], program: list[str]) -> None:
    """Nothing is leased for it."""
    before = len(agents.leases())
    done = agents.run(*options, program=program)
    assert done.returncode == 2, done.stderr
    assert len(agents.leases()) == before


def test_nowhere_to_write_to(agents: Agents, tmp_path: Path) -> None:
    """A disk is no place for a secret, whatever the environment says."""
    script = (
        f"import sys; from pathlib import Path; from broker.cli import memory_files;"
        f" memory_files.SHARED = Path({str(tmp_path)!r}); sys.argv = ['broker', *sys.argv[1:]];"
        " from broker.__main__ import main; main()"
    )
    command = agents.command("--file", "db")[len(BROKER) :]
    done = subprocess.run(
        [sys.executable, "-c", script, *command, "true"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("broker: no_tmpfs: ")


def test_options_of_the_program_are_its_own(agents: Agents) -> None:
    """With ``--`` or without; also when they look like ours."""
    done = agents.run("--lease", "db", program=["echo", "--json", "--lease", "x"])
    assert done.stdout == "--json --lease x\n"
    command = [*agents.command("--lease", "db")[:-1], "echo", "--ttl", "x"]
    plain = subprocess.run(command, capture_output=True, text=True, check=False)
    assert plain.stdout == "--ttl x\n"
    refused = agents.run("--lease", "other", program=["echo", "--json"])
    assert refused.stderr.startswith("broker: secret_not_allowed: ")


# --- how it ends


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 255", 255), ("kill -KILL $$", 137), ("kill -TERM $$", 143)]
)
def test_the_exit_code_is_the_programs(agents: Agents, script: str, code: int) -> None:
    """Or that of the signal that ended it; the lease is dead in any case."""
    assert agents.run("--lease", "db", program=["sh", "-c", script]).returncode == code
    until(agents.is_dead)


def test_pipes_end_programs_as_usual(agents: Agents) -> None:
    """A program that writes to nobody ends by SIGPIPE, which Python itself ignores."""
    command = " ".join([*agents.command("--lease", "db"), "sh", "-c", "'yes; echo $? >&2'", "|", "head", "-1"])
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == ("y\n", "141\n")
    until(agents.is_dead)


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "WINCH"])
def test_signals_are_passed_on_once(agents: Agents, running: subprocess.Popen[str], logger: Logger, name: str) -> None:
    """Sent to the command or to its process group: the program has each once, and decides what to do."""
    number = getattr(signal, f"SIG{name}")
    _, group, _ = logger.ready()
    assert group != os.getpgid(running.pid), "without a terminal it has a group of its own"
    running.send_signal(number)
    logger.wrote(number.name)
    os.killpg(os.getpgid(running.pid), number)
    logger.wrote(number.name, number.name)
    logger.end()
    assert running.wait(SECONDS) == 5
    until(agents.is_dead)


def test_a_program_that_ends_by_a_signal(agents: Agents, tmp_path: Path) -> None:
    """The command ends as the program does, with its children, and the file is gone."""
    seen = tmp_path / "path"
    script = f'echo "$DB" > {seen}.part; mv {seen}.part {seen}; sleep 100; true'
    process = subprocess.Popen([*agents.command("--file", "db"), "sh", "-c", script], start_new_session=True)
    until(seen.exists)
    path = Path(seen.read_text().strip())
    assert path.exists()
    process.terminate()
    assert process.wait(SECONDS) == 128 + signal.SIGTERM
    assert not path.parent.exists()
    until(agents.is_dead)


def test_signals_that_are_ignored_stay_so(agents: Agents, logger: Logger) -> None:
    """As with nohup."""
    command = " ".join(["trap '' HUP; exec", *agents.command("--lease", "db"), *logger.arguments])
    process = subprocess.Popen(["sh", "-c", command], start_new_session=True)
    logger.ready()
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGUSR1)
    logger.wrote("SIGUSR1")
    logger.end()
    assert process.wait(SECONDS) == 5


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_a_signal_before_the_program_is_started(agents: Agents, tmp_path: Path, name: str) -> None:
    """While a person is waited for: what was taken is given back, and nothing is started."""
    mark = tmp_path / "started"
    command = [*agents.command("--lease", "db", "--lease", "payroll"), "touch", str(mark)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    assert "A person has to decide" in process.stderr.readline()
    assert agents.leases()[0]["state"] == "live"
    process.send_signal(getattr(signal, f"SIG{name}"))
    _, told = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + getattr(signal, f"SIG{name}")
    assert "Traceback" not in told
    assert not mark.exists()
    until(agents.is_dead)


def test_a_command_that_is_killed(agents: Agents, logger: Logger) -> None:
    """It can do nothing more: the program goes on, and the lease ends when it expires."""
    process = subprocess.Popen([*agents.command("--lease", "db", "--ttl", "3s"), *logger.arguments])
    try:
        child, _, _ = logger.ready()
        process.kill()
        process.wait(SECONDS)
        os.kill(child, 0)
        until(lambda: agents.is_dead("expired"))
    finally:
        logger.end()


# --- while it runs


def test_leases_are_renewed_while_it_runs(agents: Agents, logger: Logger) -> None:
    """For much longer than they last by themselves."""
    process = subprocess.Popen(
        [*agents.command("--lease", "db", "--ttl", "6s"), *logger.arguments], stderr=subprocess.PIPE, text=True
    )
    logger.ready()
    time.sleep(13)
    assert agents.leases()[0]["state"] == "live"
    logger.end()
    _, told = process.communicate(timeout=SECONDS)
    assert (process.returncode, told) == (5, "")
    until(agents.is_dead)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_lease_that_is_revoked_meanwhile(agents: Agents, logger: Logger, as_json: bool) -> None:
    """That is said, and the program goes on."""
    options = ("--lease", "db", "--ttl", "3s", *(["--json"] if as_json else []))
    process = subprocess.Popen([*agents.command(*options), *logger.arguments], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    logger.ready()
    agents.broker.command("leases", "list")
    lease = agents.leases()[0]
    selector = ("--task", lease["task"])
    agents.broker.command("revoke", *selector, "--reason", "test")
    line = process.stderr.readline()
    told = json.loads(line)["warning"] if as_json else line.removeprefix("broker: ")
    assert re.match(rf"the lease {lease['lease_id']} of db cannot be renewed \(lease_ended: ", told)
    assert process.poll() is None
    logger.end()
    assert process.wait(SECONDS) == 5
    process.stderr.close()


def test_a_broker_that_is_away_at_the_end(agents: Agents, logger: Logger) -> None:
    """The exit code is the program's all the same, and what could not be given back is said."""
    process = subprocess.Popen([*agents.command("--lease", "db"), *logger.arguments], stderr=subprocess.PIPE, text=True)
    logger.ready()
    agents.broker.stop()
    try:
        logger.end()
        _, told = process.communicate(timeout=SECONDS)
    finally:
        agents.broker.start()
    assert process.returncode == 5
    assert "could not be given back" in told
    assert "it ends at 20" in told


# --- at a terminal

SHELL = """
import os, signal, sys
os.setsid()
terminal = os.open(sys.argv[1], os.O_RDWR)
for descriptor in (0, 1, 2):
    os.dup2(terminal, descriptor)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = os.fork()
if job == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpgrp())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execvp(sys.argv[3], sys.argv[3:])
with open(sys.argv[2], "a") as log:
    while True:
        _, status = os.waitpid(job, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            print("ended", os.waitstatus_to_exitcode(status), file=log, flush=True)
            break
        print("stopped", file=log, flush=True)
        os.tcsetpgrp(0, os.getpgrp())
        os.tcsetpgrp(0, job)
        os.killpg(job, signal.SIGCONT)
"""
"""A shell with job control, as small as can be: one job in the foreground, which goes on whenever it was stopped."""


@dataclass
class Terminal:
    """A terminal with ``broker exec`` as the foreground job of its shell."""

    keyboard: int
    told: Path

    def types(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self.keyboard, keys)

    def becomes(self, rows: int, columns: int) -> None:
        """Change the size of the window."""
        fcntl.ioctl(self.keyboard, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def says(self) -> list[str]:
        """What the shell saw of its job."""
        return self.told.read_text().splitlines() if self.told.exists() else []


@pytest.fixture
def terminal(agents: Agents, logger: Logger, tmp_path: Path) -> Iterator[Terminal]:
    """A terminal in which a logger runs."""
    keyboard, screen = pty.openpty()
    told = tmp_path / "told"
    command = [*agents.command("--lease", "db"), *logger.arguments]
    shell = subprocess.Popen([sys.executable, "-c", SHELL, os.ttyname(screen), str(told), *command])
    logger.ready()
    yield Terminal(keyboard, told)
    logger.end()
    shell.wait(SECONDS)
    os.close(keyboard)
    os.close(screen)


@pytest.mark.parametrize(("key", "name"), [(b"\x03", "SIGINT"), (b"\x1c", "SIGQUIT")])
def test_keys_reach_the_program_once(agents: Agents, terminal: Terminal, logger: Logger, key: bytes, name: str) -> None:
    """Not a second time through the command, which many programs take as an order to end at once."""
    _, group, _ = logger.ready()
    terminal.types(key)
    logger.wrote(name)
    os.kill(group, getattr(signal, name))  # the leader of the job's group is the command
    logger.wrote(name, name)
    logger.end()
    until(lambda: terminal.says() == ["ended 5"])
    until(agents.is_dead)


def test_stopping_and_going_on(agents: Agents, terminal: Terminal, logger: Logger) -> None:
    """Ctrl-Z stops command and program alike, and the shell's word lets both go on."""
    terminal.types(b"\x1a")
    until(lambda: terminal.says() == ["stopped"])
    logger.wrote("SIGCONT")
    logger.end()
    until(lambda: terminal.says() == ["stopped", "ended 5"])
    until(agents.is_dead)


def test_the_size_of_the_window(terminal: Terminal, logger: Logger) -> None:
    """The program is told when it changes."""
    terminal.becomes(50, 132)
    logger.wrote("SIGWINCH")
