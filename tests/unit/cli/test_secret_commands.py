"""``broker secret``: values go in unseen, their names come out, and the values never do."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from broker.backends.local import LocalBackend
from broker.backends.secrets_file import PURPOSE, SecretsFile
from broker.cli.folder import make_folder
from broker.cli.secret import MAX_VALUE
from broker.clock import SystemClock
from broker.core.lease import LeaseOrder
from broker.signing.master_key import KeyFile, load_master_key
from broker.signing.sealing import Sealer, derived_key
from tests.support.shell import Done, Shell

PASSWORD = "correct horse battery staple"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A broker's folder whose settings have two local backends, and one of another kind."""
    folder = tmp_path / "home"
    make_folder(folder)
    with (folder / "broker.toml").open("a") as file:
        file.write('\n[backends.local]\n[backends."local/other"]\npath = "other.sealed"\n')
        file.write('[backends.aws-sts]\nregion = "eu-central-1"\n')
    monkeypatch.setenv("BROKER_CONFIG", str(folder / "broker.toml"))
    return folder


def _put(shell: Shell, monkeypatch: pytest.MonkeyPatch, value: bytes | str, *arguments: object) -> Done:
    data = value.encode() if isinstance(value, str) else value
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    return shell("secret", "set", *arguments)


def _seal(home: Path) -> Sealer:
    return Sealer(derived_key(load_master_key(KeyFile(home / "master.key")), PURPOSE))


async def _leased(home: Path, name: str) -> object:
    """Return what a lease of a stored value gives to an agent."""
    backend = LocalBackend("local", home / "secrets.sealed", seal=_seal(home), clock=SystemClock())
    now = int(time.time())
    order = LeaseOrder(
        lease="lse_1",
        secret="demo",
        settings={"stored": name},
        ttl=60,
        ends_by=now + 60,
        agent="agent:alpha",
        role="reader",
        task="task_1",
        task_ends=now + 60,
        on_behalf_of="team:orders",
    )
    taken = await backend.take(order, await backend.prepare(order))
    await backend.close()
    return json.loads(taken.data.reveal())["value"]


async def test_what_is_stored_is_what_a_lease_gives(shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings name the file and the master key, for the command and for the broker alike."""
    done = _put(shell, monkeypatch, f"{PASSWORD}\n", "orders-db", "--json")
    assert done.json == {"backend": "local", "name": "orders-db", "replaced": False}
    assert await _leased(home, "orders-db") == PASSWORD
    assert stat.S_IMODE((home / "secrets.sealed").stat().st_mode) == 0o600
    assert PASSWORD not in (home / "secrets.sealed").read_text()
    assert _put(shell, monkeypatch, "another", "orders-db").out == "orders-db is replaced in local\n"
    assert await _leased(home, "orders-db") == "another"


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (b"one\n", "one"),
        (b"one\r\n", "one"),
        (b"one\r", "one\r"),
        (b"two\n\n", "two\n"),
        (b" three ", " three "),
        ("four Ünïcode".encode(), "four Ünïcode"),
        (b"5" * MAX_VALUE + b"\r\n", "5" * MAX_VALUE),
    ],
)
async def test_the_value_is_the_whole_input(
    shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch, given: bytes, stored: str
) -> None:
    """But for one line end at its end; several lines and spaces stay."""
    assert _put(shell, monkeypatch, given, "x").code == 0
    assert await _leased(home, "x") == stored


def test_a_replaced_value_is_younger(shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within one second, too: that is how a lease knows that its value is not the one stored now."""
    file = SecretsFile("local", home / "secrets.sealed", _seal(home), patience=1.0)
    times = []
    for value in ("one", "two", "three"):
        _put(shell, monkeypatch, value, "x")
        times.append(file.read().stored["x"].at)
    assert times == sorted(set(times))


@pytest.mark.parametrize("given", [b"", b"\n", b"\xff\xfe" + PASSWORD.encode(), b"x" * (MAX_VALUE + 1)])
def test_values_that_cannot_be_stored(shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch, given: bytes) -> None:
    """Nothing, bytes that are no text, and too much are refused, and never shown."""
    done = _put(shell, monkeypatch, given, "x")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("broker: value_unusable: ")
    assert PASSWORD not in done.err
    assert not (home / "secrets.sealed").exists()


def test_names_are_listed_and_removed(shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, with the time that they were stored at, each backend on its own; no value is ever shown."""
    for name in ("b", "a"):
        _put(shell, monkeypatch, PASSWORD, name)
    _put(shell, monkeypatch, PASSWORD, "c", "--backend", "local/other")
    listed = shell("secret", "list", "--json")
    assert [each["name"] for each in listed.json["secrets"]] == ["a", "b"]
    assert all(each["stored_at"].endswith("Z") for each in listed.json["secrets"])
    other = shell("secret", "list", "--backend", "local/other")
    assert [line.split()[0] for line in other.out.splitlines()] == ["name", "c"]
    assert PASSWORD not in listed.out + other.out
    assert shell("secret", "remove", "a", "--json").json == {"backend": "local", "name": "a", "removed": True}
    gone = shell("secret", "remove", "a")
    assert (gone.code, gone.err) == (1, "broker: not_found: local has no stored value of that name\n")
    assert [each["name"] for each in shell("secret", "list", "--json").json["secrets"]] == ["b"]
    assert shell("secret", "remove", "b").code == 0
    assert shell("secret", "list").out == "local has no stored values.\n"


@pytest.mark.parametrize("name", ["", "-x", "a b", "x" * 129, "ends.", "nül"])
def test_names_that_cannot_be(shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A name is one that a policy can be expected to have."""
    done = _put(shell, monkeypatch, PASSWORD, "--", name)
    assert (done.code, done.out) == (2, "")
    assert not (home / "secrets.sealed").exists()


@pytest.mark.parametrize("backend", ["local/none", "aws-sts"])
@pytest.mark.parametrize("command", [("set", "x"), ("list",), ("remove", "x")])
def test_only_local_backends_store_values(
    shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], backend: str
) -> None:
    """Another backend, and one that is not configured, is refused before anything is asked for."""
    monkeypatch.setattr(sys, "stdin", None)
    done = shell("secret", *command, "--backend", backend)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("broker: no_backend: ")


def test_a_file_that_cannot_be_opened(shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told before the value is read, and left as it is; so is a master key that is not there."""
    (home / "secrets.sealed").write_text("damaged")
    monkeypatch.setattr(sys, "stdin", None)
    done = shell("secret", "set", "x")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("broker: backend_refused: ")
    assert (home / "secrets.sealed").read_text() == "damaged"
    (home / "master.key").unlink()
    assert shell("secret", "list").err.startswith("broker: master_key_unusable: ")


def test_at_a_terminal_it_is_asked_for_unseen(home: Path) -> None:
    """What is typed is not echoed, is asked for twice, and is stored if both are the same."""
    shown = _typed([PASSWORD, "something else", PASSWORD, PASSWORD])
    assert PASSWORD not in shown
    assert shown.count("Value of orders-db") == 2
    assert "orders-db is stored in local" in shown


def _typed(lines: list[str]) -> str:
    """Run ``broker secret set`` at a terminal, type a line whenever it asks for one, and return all that was shown."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "broker", "secret", "set", "orders-db"]
    # In a session of its own, whose terminal is this one: the prompt opens it by name.
    process = subprocess.Popen(
        [sys.executable, "-c", _IN_TERMINAL, *command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
    )
    os.close(theirs)
    shown, answered = "", 0
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and select.select([ours], [], [], 60)[0]:
        try:
            chunk = os.read(ours, 4096)
        except OSError:
            break  # Linux ends a terminal that nobody has open so
        if not chunk:
            break
        shown += chunk.decode()
        if answered < len(lines) and shown.endswith(("orders-db: ", "confirmation: ")):
            os.write(ours, f"{lines[answered]}\n".encode())
            answered += 1
    os.close(ours)
    assert process.wait(30) == 0, shown
    return shown


_IN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
