"""The command line with real processes: from an empty folder to a verified ledger, the way the README does it."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from broker.core.personal import told
from tests.support.running_broker import TICKETS, RunningBroker, free_port

BROKER = (sys.executable, "-m", "broker")
SECONDS = 30.0


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """A broker with its own process."""
    running = RunningBroker(tmp_path_factory.mktemp("cli"))
    running.initialise()
    running.start()
    yield running
    running.stop()


def _run(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **(env or {})}
    command: Sequence[str] = [*BROKER, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)


def _wait(process: subprocess.Popen[str], number: signal.Signals) -> int:
    process.send_signal(number)
    return process.wait(SECONDS)


def test_from_nothing_without_editing(tmp_path: Path) -> None:
    """``init``, ``serve --port``, and the operator's commands work together with nothing edited in between."""
    home, port = tmp_path / "home", str(free_port())
    assert _run("init", home).returncode == 0
    config = str(home / "broker.toml")
    serving = subprocess.Popen(
        [*BROKER, "serve", "--config", config, "--port", port, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert serving.stdout is not None
        first = ""
        while not first.endswith("}\n"):
            first += serving.stdout.readline()
        assert json.loads(first)["issuer"] == f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + SECONDS
        environment = {"BROKER_CONFIG": config, "BROKER_PORT": port}
        while (listed := _run("agent", "list", "--json", env=environment)).returncode == 3:
            assert time.monotonic() < deadline, listed.stderr
        assert [agent["name"] for agent in json.loads(listed.stdout)["agents"]] == ["operator"]
        assert _wait(serving, signal.SIGINT) == 0
    finally:
        serving.kill()
        serving.wait()
        if serving.stdout is not None:
            serving.stdout.close()
    verified = _run("ledger", "verify", "--config", config)
    assert verified.returncode == 0, verified.stdout


def test_the_main_job(broker: RunningBroker, tmp_path: Path) -> None:
    """An agent enrols, gets a token, is revoked and blocked, is let in again; the ledger verifies throughout."""
    code = broker.ask("agent", "enroll", "beta")["code"]
    key = tmp_path / "beta.pem"
    redeemed = _run("agent", "redeem", code, "--key", key, "--issuer-url", broker.issuer)
    assert redeemed.returncode == 0, redeemed.stderr
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    asked = ("token", "--agent", "beta", "--key", str(key), "--audience", TICKETS, "--scope", "tickets:read")
    assert broker.command(*asked).count(".") == 2
    assert broker.ask("revoke", "--agent", "beta", "--preview")["hits"]["tokens"] == 1
    revoked = broker.ask("revoke", "--agent", "beta", "--block", "--reason", "drill", "--incident", "INC-1")
    assert (revoked["hits"]["tokens"], revoked["durable"]) == (1, True)
    assert broker.command(*asked, expect=1) == ""
    broker.command("blocks", "lift", revoked["block"]["id"])
    assert broker.command(*asked).count(".") == 2
    broker.command("ledger", "verify", "--file", str(broker.ledger))


def test_following_the_ledger(broker: RunningBroker) -> None:
    """``tail --follow`` shows what happens as it happens, one JSON object a line, until Ctrl-C."""
    following = subprocess.Popen(
        [*BROKER, "ledger", "tail", "-n", "1", "--follow", "--json", "--config", str(broker.config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert following.stdout is not None
        assert "entry" in json.loads(following.stdout.readline())
        broker.command("revoke", "--role", "watchers", "--reason", "seen while following")
        reasons = (told(json.loads(line)).get("reason") for line in following.stdout)
        assert any(reason == "seen while following" for reason in reasons)
        assert _wait(following, signal.SIGINT) == 130
        assert following.stderr is not None
        assert "Traceback" not in following.stderr.read()
    finally:
        following.kill()
        following.communicate()


def test_a_port_that_is_taken(broker: RunningBroker, tmp_path: Path) -> None:
    """A second broker on the same port says so in one line, and ends with 3."""
    assert _run("init", tmp_path / "b").returncode == 0
    done = _run("serve", "--config", tmp_path / "b" / "broker.toml", "--port", broker.port)
    assert done.returncode == 3
    last = done.stderr.splitlines()[-1]
    assert last.startswith("broker: cannot_listen: ")
    assert "--port" in last


def test_a_ledger_that_is_taken(broker: RunningBroker) -> None:
    """A second broker on the same ledger is refused: it would break it."""
    done = _run("serve", "--config", broker.config, "--port", free_port())
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("broker: ledger_unavailable: ")


@pytest.mark.parametrize(
    ("name", "change", "code"),
    [
        ("master.key", lambda path: path.chmod(0o644), "master_key_unusable"),
        ("master.key", lambda path: path.unlink(), "master_key_unusable"),
        ("policy.yaml", lambda path: path.write_text("version: 1\nrolls: {}\n"), "policy_invalid"),
        ("broker.toml", lambda path: path.write_text("issuer = 1\n"), "config_invalid"),
    ],
)
def test_what_cannot_be_served(tmp_path: Path, name: str, change: object, code: str) -> None:
    """Settings, policy or key that cannot be used are told with their file, before anything is served."""
    home = tmp_path / "b"
    assert _run("init", home).returncode == 0
    assert callable(change)
    change(home / name)
    done = _run("serve", "--config", home / "broker.toml", "--port", free_port())
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if line.startswith("broker: ")]
    assert len(told) == 1
    assert told[0].startswith(f"broker: {code}: ")
    assert name in told[0]


def test_another_master_key(tmp_path: Path) -> None:
    """With a master key that is not the ledger's, the broker does not start, and says which key does not open."""
    homes = [tmp_path / "a", tmp_path / "b"]
    for home in homes:
        assert _run("init", home).returncode == 0
    (homes[0] / "master.key").write_bytes((homes[1] / "master.key").read_bytes())
    done = _run("serve", "--config", homes[0] / "broker.toml", "--port", free_port())
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("broker: master_key_unusable: ")
