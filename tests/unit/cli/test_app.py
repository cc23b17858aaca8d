"""The command line as a whole: how failures are told, how the broker is found, and who may do what."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from cryptography.hazmat.primitives.asymmetric import ec

import broker as package
from broker.cli import app as cli
from broker.cli import blocks, session
from tests.support.broker_thread import BrokerThread
from tests.support.running_broker import free_port
from tests.support.shell import Shell, write_private_key

ONLINE = (
    ("agent", "list"),
    ("agent", "enroll", "zeta"),
    ("agent", "remove", "zeta"),
    ("blocks", "list"),
    ("blocks", "lift", "blk_1"),
    ("keys", "list"),
    ("keys", "rotate"),
    ("leases", "list"),
    ("leases", "show", "lease_1"),
    ("leases", "retry", "lease_1"),
    ("leases", "abandon", "lease_1", "--reason", "x"),
    ("leases", "confirm", "--reason", "x"),
    ("leases", "revoke-prefix", "vault", "database/creds", "--reason", "x"),
    ("ledger", "tail"),
    ("ledger", "show", "0"),
    ("policy", "explain", "--agent", "a"),
    ("policy", "reload"),
    ("revoke", "--agent", "a", "--preview"),
    ("revoke", "--agent", "a", "--reason", "x"),
)


class _Hello(http.server.BaseHTTPRequestHandler):
    """Something that is not a broker."""

    def do_GET(self) -> None:
        """Greet."""
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *arguments: object) -> None:
        """Keep quiet."""


@pytest.fixture
def stranger() -> Iterator[int]:
    """The port of an HTTP server that is no broker."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hello) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_version(shell: Shell) -> None:
    """The version is one line, or JSON."""
    assert shell("--version").out == f"{package.__version__}\n"


@pytest.mark.parametrize("arguments", [("--nonsense",), ("nonsense",), ("agent",), ("agent", "add"), ("revoke", "x")])
def test_wrong_usage(shell: Shell, arguments: tuple[str, ...]) -> None:
    """Arguments that make no sense end with 2 and one line that says where help is; with --json, in JSON."""
    done = shell(*arguments)
    assert done.code == 2
    assert done.err.startswith("broker: usage: ")
    assert "--help" in done.err
    assert done.err.count("\n") == 1
    assert json.loads(shell(*arguments, "--json").err)["code"] == "usage"


def test_every_command_has_json_and_help() -> None:
    """No command is without --json or without a word about itself and about each of its options."""

    def commands(command: object, name: str) -> Iterator[tuple[str, object]]:
        children = getattr(command, "commands", None)
        if children is None:
            yield name, command
        else:
            for child, inner in children.items():
                yield from commands(inner, f"{name} {child}")

    found = dict(commands(typer.main.get_command(cli.app), "broker"))
    assert len(found) == 67
    for name, command in found.items():
        parameters = command.params  # type: ignore[attr-defined]
        options = {option for parameter in parameters for option in parameter.opts}
        # An export has formats, of which JSON is one; a checkpoint is a signed text, and has no other form.
        assert options & {"--json", "--format"} or name == "broker ledger checkpoint", name
        assert command.help, name  # type: ignore[attr-defined]
        for parameter in parameters:
            assert parameter.help, f"{name} {parameter.name}"


@pytest.mark.parametrize("arguments", ONLINE)
def test_no_settings(shell: Shell, arguments: tuple[str, ...]) -> None:
    """Without settings, every command says where it looked and how to make some."""
    done = shell(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "broker.toml" in done.err
    assert "broker init" in done.err


@pytest.mark.parametrize("arguments", ONLINE)
def test_no_broker(shell: Shell, made: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    """Without a broker, every command says so and how to start one."""
    monkeypatch.setattr(session, "PATIENCE", 0.1)
    port = free_port()
    done = shell(*arguments, "--config", made / "broker.toml", "--port", port)
    assert (done.code, done.out) == (3, "")
    expected = f"broker: no_broker: no broker answers at http://127.0.0.1:{port}; start it with: broker serve"
    assert done.err.startswith(expected)
    assert done.err.count("\n") == 1


def test_something_else_answers(shell: Shell, made: Path, stranger: int) -> None:
    """If what answers is no broker, that is told, and the operator's key was used for nothing."""
    done = shell("agent", "list", "--config", made / "broker.toml", "--port", stranger)
    assert (done.code, done.out, done.err.count("\n")) == (3, "", 1)
    assert "no_broker" not in done.err


def test_bad_settings(shell: Shell, tmp_path: Path) -> None:
    """Settings that cannot be used are told with file and key."""
    config = tmp_path / "broker.toml"
    config.write_text('issuer = "http://broker.example"\n')
    done = shell("agent", "list")
    assert done.code == 2
    assert done.err.startswith(f"broker: config_invalid: {config.name}: issuer: ")


def test_the_settings_of_the_folder_are_found(shell: Shell, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the broker's own folder nothing needs to be named."""
    monkeypatch.chdir(made)
    assert shell("policy", "check").code == 0


def test_a_stranger_is_no_operator(shell: Shell, broker: BrokerThread) -> None:
    """With a key that the broker does not know, nothing is done, and the exit code says who failed: the caller."""
    write_private_key(broker.folder / "operator.pem", ec.generate_private_key(ec.SECP256R1()))
    done = shell("agent", "list")
    assert (done.code, done.out) == (5, "")
    assert "[operator]" in done.err


def test_an_exposed_key_is_not_used(shell: Shell, broker: BrokerThread) -> None:
    """The operator's key is refused as soon as others can read it."""
    (broker.folder / "operator.pem").chmod(0o644)
    done = shell("agent", "list")
    assert done.code == 2
    assert done.err.startswith("broker: key_exposed: ")


def test_an_agent_is_no_operator(shell: Shell, broker: BrokerThread, template: object) -> None:
    """An agent without an operator's role is told by which refusal it was stopped."""
    write_private_key(broker.folder / "operator.pem", broker.app.keys["alpha"])
    config = broker.config.read_text().replace('agent = "operator"', 'agent = "alpha"')
    broker.config.write_text(config)
    done = shell("keys", "rotate")
    assert done.code == 5
    assert "does not let" in done.err
    assert "--refusal ref_" in done.err
    assert len(broker.entries("keys.rotated")) == 1


def test_tokens_are_for_one_scope(shell: Shell, broker: BrokerThread) -> None:
    """A command holds only what it needs: listing agents never has a token that could revoke."""
    shell("agent", "list")
    issued = [entry for entry in broker.entries("token.issued") if entry["agent"] == "operator"]
    assert [entry["scope"] for entry in issued] == ["operator:read"]
    assert all("bound_key" in entry for entry in issued), "each is bound to a key of the session"


def test_a_defect_shows_no_values(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the command itself is broken, the line names the place in the code, never a value."""

    def broken(*_: object) -> None:
        raise ValueError("eyJsecret.secret.secret")

    monkeypatch.setattr(blocks, "settings", broken)
    done = shell("blocks", "list")
    assert done.code == 70
    assert "ValueError" in done.err
    assert "secret" not in done.err
    assert "Traceback" not in done.err


def test_interrupted(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends with 130 and without a traceback."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(blocks, "settings", interrupted)
    done = shell("blocks", "list")
    assert done.code == 130
    assert "Traceback" not in done.err


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_nobody_reads(arguments: list[str]) -> None:
    """A reader that goes away ends the command quietly."""
    script = f"import sys; from broker.cli.app import run; sys.exit(run({arguments}))"
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as output:
        done = subprocess.run([sys.executable, "-c", script], stdout=output, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 141
    assert done.stderr == b""


@pytest.mark.parametrize("package_name", ["typer", "yaml", "structlog"])
def test_without_the_server_extra(package_name: str) -> None:
    """Where only the client was installed, the command says which extra is missing."""
    script = (
        f"import sys; sys.modules[{package_name!r}] = None; sys.argv = ['broker', 'policy', 'check', 'x.yaml'];"
        " from broker.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "credential-broker[server]" in done.stderr
    assert done.stderr.count("\n") == 1


def test_texts_from_the_broker_are_harmless(shell: Shell, broker: BrokerThread, tmp_path: Path) -> None:
    """Whatever an agent managed to get into the record, the terminal is not spoken to."""
    nasty = "a\x1b]0;owned\x07\u202eb"
    form = broker.app.form("alpha", audience=f"https://x.example/{nasty}", scope="tickets:read")
    broker.run(broker.app.ask(form))
    for arguments in (("ledger", "tail", "-n", "50"), ("ledger", "tail", "-n", "50", "--json")):
        out = shell(*arguments).out
        assert not {"\x1b", "\x07", "\u202e"} & set(out)


def test_folders_are_not_mixed_up(shell: Shell, made: Path, tmp_path: Path) -> None:
    """A copied folder works from where it is: relative paths are taken from the settings file."""
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    (copy / "policy.yaml").write_text("version: 2\n")
    assert shell("policy", "check", "--config", copy / "broker.toml").code == 1
    assert shell("policy", "check", "--config", made / "broker.toml").code == 0


def test_a_terminal_without_unicode(tmp_path: Path) -> None:
    """Where the output cannot hold a character, it is escaped; the command does not fail for it."""
    file = tmp_path / "policy-\u00fc\u4e2d.yaml"
    file.write_text("version: 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "broker", "policy", "check", file],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 1
    assert b"policy-\\xfc\\u4e2d.yaml" in done.stdout
    assert b"internal" not in done.stderr
