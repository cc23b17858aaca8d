"""Loading the master key from a file, a variable or a command."""

from __future__ import annotations

import base64
import os
import sys
import time
from pathlib import Path

import pytest

from broker.core.secret import Secret
from broker.signing.master_key import (
    KeyCommand,
    KeyFile,
    KeyVariable,
    MasterKeyError,
    create_master_key,
    load_master_key,
)

KEY = bytes(range(100, 132))
TEXT = base64.b64encode(KEY).decode()


def _write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def _python(script: str, timeout: float = 20.0) -> KeyCommand:
    return KeyCommand((sys.executable, "-c", script), timeout)


def test_a_created_key_file_is_private_random_and_loads(tmp_path: Path) -> None:
    """What `init` makes is what `serve` reads, and only the owner can."""
    first, second = tmp_path / "a.key", tmp_path / "b.key"
    create_master_key(first)
    create_master_key(second)
    assert first.stat().st_mode & 0o777 == 0o600
    assert load_master_key(KeyFile(first)) != load_master_key(KeyFile(second))
    assert load_master_key(KeyFile(first)) == load_master_key(KeyFile(first))


def test_creating_never_overwrites(tmp_path: Path) -> None:
    """An existing master key is worth more than a new one."""
    path = _write(tmp_path / "master.key", TEXT)
    with pytest.raises(MasterKeyError, match="cannot be created"):
        create_master_key(path)
    assert path.read_text() == TEXT


def test_a_key_is_private_even_under_a_loose_umask(tmp_path: Path) -> None:
    """The mode does not depend on the shell that `init` was run in."""
    before = os.umask(0)
    try:
        create_master_key(tmp_path / "master.key")
    finally:
        os.umask(before)
    assert (tmp_path / "master.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o666, 0o777])
def test_a_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    """Readable or writable by group or world is an error that says what to do."""
    path = _write(tmp_path / "master.key", TEXT, mode)
    with pytest.raises(MasterKeyError, match="make it 0600"):
        load_master_key(KeyFile(path))


def test_a_link_is_judged_by_what_it_points_to(tmp_path: Path) -> None:
    """Mounted secrets are links; the file behind them is what counts."""
    target = _write(tmp_path / "data", TEXT)
    link = tmp_path / "master.key"
    link.symlink_to(target)
    assert load_master_key(KeyFile(link)) == Secret(KEY)
    target.chmod(0o644)
    with pytest.raises(MasterKeyError, match="make it 0600"):
        load_master_key(KeyFile(link))


def test_what_is_no_regular_file_is_refused_without_hanging(tmp_path: Path) -> None:
    """A missing file, a folder, a pipe without a writer: each an error at once."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for path, why in ((pipe, "not a regular file"), (tmp_path, "cannot be read|not a regular"), (tmp_path / "x", "No")):
        with pytest.raises(MasterKeyError, match=why):
            load_master_key(KeyFile(path))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        TEXT[:-1],
        TEXT[:-2] + "=",
        TEXT + TEXT,
        TEXT + "!",
        TEXT[:10] + "\n" + TEXT[10:],
        TEXT.rstrip("="),
        KEY.hex(),
        base64.b64encode(KEY[:31]).decode(),
        base64.b64encode(KEY + b"x").decode(),
        TEXT + " " * 10_000,
        "\xe9" * 44,
    ],
)
def test_anything_but_the_base64_of_32_bytes_is_refused(tmp_path: Path, text: str) -> None:
    """From every source; and the text is not repeated, since it may be a secret in another form."""
    sources = (
        KeyFile(_write(tmp_path / "master.key", text)),
        KeyVariable("MASTER"),
        _python(f"import sys; sys.stdout.buffer.write({text.encode()!r})"),
    )
    for source in sources:
        with pytest.raises(MasterKeyError) as caught:
            load_master_key(source, {"MASTER": text})
        assert TEXT[:8] not in str(caught.value)
        assert KEY.hex() not in str(caught.value)


@pytest.mark.parametrize("key", [bytes(32), b"changeme" * 4, b"A" * 32])
def test_placeholders_are_refused(key: bytes) -> None:
    """A key that somebody typed protects nothing."""
    with pytest.raises(MasterKeyError, match="not random"):
        load_master_key(KeyVariable("MASTER"), {"MASTER": base64.b64encode(key).decode()})


def test_a_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the given environment, or from the process's own; unset or empty is an error that names it."""
    assert load_master_key(KeyVariable("MASTER"), {"MASTER": f" {TEXT}\n"}) == Secret(KEY)
    monkeypatch.setenv("BROKER_TEST_MASTER", TEXT)
    assert load_master_key(KeyVariable("BROKER_TEST_MASTER")) == Secret(KEY)
    for environment in ({}, {"MASTER": ""}):
        with pytest.raises(MasterKeyError, match="MASTER: not set"):
            load_master_key(KeyVariable("MASTER"), environment)


def test_a_command_prints_the_key() -> None:
    """Its standard output is the key; what it says on its standard error is not taken for it."""
    source = _python(f"import sys; print('unlocking', file=sys.stderr); print('{TEXT}')")
    assert load_master_key(source) == Secret(KEY)


def test_a_command_is_run_without_a_shell(tmp_path: Path) -> None:
    """Shell syntax in an argument stays text."""
    trap = tmp_path / "trap"
    with pytest.raises(MasterKeyError):
        load_master_key(KeyCommand(("echo", f"$(touch {trap}); touch {trap}")))
    assert not trap.exists()


@pytest.mark.parametrize("argv", [(), ("",), ("/nonexistent/program",), ("program\0",)])
def test_a_command_that_cannot_be_started_is_an_error(argv: tuple[str, ...]) -> None:
    """Nothing to run, or nothing there."""
    with pytest.raises(MasterKeyError, match=r"names no program|cannot be started"):
        load_master_key(KeyCommand(argv))


def test_a_failing_command_is_not_believed() -> None:
    """Whatever it printed; its words are not repeated."""
    with pytest.raises(MasterKeyError, match="status 3") as caught:
        load_master_key(_python(f"import sys; print('{TEXT}'); sys.stderr.write('canary'); sys.exit(3)"))
    assert TEXT not in str(caught.value)
    assert "canary" not in str(caught.value)


def test_a_command_with_endless_output_is_ended_early() -> None:
    """Output is bounded, and the command does not live on."""
    start = time.monotonic()
    with pytest.raises(MasterKeyError, match="base64"):
        load_master_key(_python("while True: print('x' * 65536)", timeout=60))
    assert time.monotonic() - start < 30


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    """The start is not held up beyond the time-out, and nothing is left running."""
    note = tmp_path / "pid"
    script = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\n"
        "child.wait()\n"
    )
    with pytest.raises(MasterKeyError, match="did not end within 3 s"):
        load_master_key(_python(script, timeout=3))
    assert _ends(int(note.read_text()))


def _ends(pid: int) -> bool:
    """Whether a process is gone, or dead and only waiting to be reaped, within a few seconds."""
    for _ in range(500):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False
