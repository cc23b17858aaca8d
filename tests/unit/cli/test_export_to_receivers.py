"""``broker ledger export --to``: what can be asked for, what is told of it, and that a broker never notices."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from aiohttp import web

from tests.support.broker_thread import BrokerThread
from tests.support.certificates import certificate_for_loopback
from tests.support.http_receiver import Got, http_server
from tests.support.running_broker import free_port
from tests.support.shell import Done, Shell
from tests.support.syslog_reader import read_syslog
from tests.support.syslog_server import SyslogServer


async def export(shell: Shell, *arguments: object) -> Done:
    """Run an export beside the receiver, which lives on this loop."""
    return await asyncio.to_thread(shell, "ledger", "export", *arguments)


async def test_to_http(shell: Shell, made: Path, tmp_path: Path) -> None:
    """Every entry is sent once, with the token; the cursor says so, and the next run has nothing to do."""
    (tmp_path / "token").write_text("s3cr3t-of-the-receiver")
    async with http_server() as server:
        arguments = ["--file", made / "ledger.db", "--to", server.url, "--format", "otlp"]
        arguments += ["--token-file", tmp_path / "token", "--cursor", tmp_path / "cursor"]
        first, second = await export(shell, *arguments), await export(shell, *arguments)
    assert (first, second) == (Done(0, "", ""), Done(0, "", ""))
    (got,) = server.accepted
    assert got.headers["Authorization"] == "Bearer s3cr3t-of-the-receiver"
    assert int((tmp_path / "cursor").read_text()) == len(json.loads(got.body)["resourceLogs"]) == 2


async def test_to_syslog(shell: Shell, made: Path, tmp_path: Path) -> None:
    """Over TLS, with a certificate of our own; the receiver's end confirms everything."""
    certificate, ours = certificate_for_loopback(tmp_path), certificate_for_loopback(tmp_path, "client")
    async with SyslogServer(certificate, client_ca=ours[0]) as server:
        arguments = ["--file", made / "ledger.db", "--to", server.url, "--format", "cef", "--ca-file", certificate[0]]
        arguments += ["--certificate", ours[0], "--key", ours[1], "--cursor", tmp_path / "cursor"]
        done = await export(shell, *arguments, "--server-name", "127.0.0.1")
    assert done == Done(0, "", "")
    assert [read_syslog(message).data["seq"] for message in server.messages] == ["0", "1"]
    assert all(read_syslog(message).text.startswith("CEF:0|") for message in server.messages)
    assert (tmp_path / "cursor").read_text() == "2\n"


async def test_a_refused_entry(shell: Shell, made: Path, tmp_path: Path) -> None:
    """It stops the export with its place, or is left out and counted if that was asked for."""

    async def judge(got: Got) -> web.Response:
        return web.Response(status=400 if '"seq":0' in got.body else 200)

    async with http_server(judge) as server:
        arguments = ("--file", made / "ledger.db", "--to", server.url, "--cursor", tmp_path / "cursor")
        stopped, skipped = await export(shell, *arguments), await export(shell, *arguments, "--skip-refused")
    assert stopped.code == 1
    assert stopped.err.startswith("broker: entry_refused: the receiver refuses entry 0: it answers 400.")
    assert (skipped.code, skipped.err.splitlines()[-1].partition(" in all")[0]) == (0, "skipped: 1 entries")
    assert [json.loads(line)["seq"] for line in server.lines] == [1]


async def test_a_receiver_that_is_down(
    shell: Shell, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last attempt the command ends with 3, and no cursor says that anything was sent."""
    monkeypatch.setattr("broker.delivery.forwarding.ATTEMPTS", 1)
    arguments = ("--file", made / "ledger.db", "--cursor", tmp_path / "cursor")
    for scheme in ("http", "syslog+tcp"):
        done = await export(shell, *arguments, "--to", f"{scheme}://127.0.0.1:{free_port()}")
        assert done.code == 3
        assert done.err.startswith("broker: receiver_unavailable: the receiver takes nothing: ")
    assert not (tmp_path / "cursor").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--to", "ftp://logs.example"), "--to: "),
        (("--to", "http://logs.example"), "--allow-plain"),
        (("--to", "syslog+tcp://logs.example"), "--allow-plain"),
        (("--to", "syslog+udp://logs.example"), "--allow-plain"),
        (("--to", "https://user:password@logs.example"), "--to: "),
        (("--to", "https://logs.example", "--output", "out"), "--output and --to"),
        (("--to", "https://logs.example", "--certificate", "a"), "--certificate and --key"),
        (("--to", "https://logs.example", "--certificate", "a", "--key", "b"), "--certificate: has no meaning"),
        (("--to", "https://logs.example", "--server-name", "a"), "--server-name: has no meaning"),
        (("--to", "https://logs.example", "--ca-file", "none.pem"), "cannot be used"),
        (("--to", "https://logs.example", "--token-file", "none"), "the token's file cannot be read"),
        (("--to", "https://logs.example", "--token-variable", "NO_SUCH"), "the token is empty"),
        (("--to", "https://logs.example", "--token-variable", "A", "--token-file", "b"), "give one of them"),
        (("--to", "syslog+tls://logs.example", "--token-variable", "A"), "--token-variable: has no meaning"),
        (("--to", "syslog+tls://logs.example", "--ca-file", "none.pem"), "cannot be used"),
        (("--to", "syslog:", "--ca-file", "none.pem"), "--ca-file: has no meaning"),
        (("--ca-file", "none.pem"), "--to: is missing"),
        (("--source", "urn:" + "x" * 100), "--source: "),
    ],
)
def test_what_does_not_fit(shell: Shell, made: Path, arguments: tuple[str, ...], told: str) -> None:
    """Nothing is sent to anybody before everything fits."""
    done = shell("ledger", "export", "--file", made / "ledger.db", *arguments)
    assert (done.code, done.out) == (2, "")
    assert told in done.err


async def test_a_receiver_that_hangs_makes_no_difference(broker: BrokerThread, tmp_path: Path) -> None:
    """While a receiver hangs and fails, a broker issues as ever; afterwards all has arrived, in order."""
    healthy = asyncio.Event()

    async def judge(got: Got) -> web.Response:
        if not healthy.is_set():
            if len(server.asked) % 2:
                await healthy.wait()
            return web.Response(status=500)
        return web.Response()

    async with http_server(judge) as server:
        cursor = str(tmp_path / "cursor")
        command = ["-m", "broker", "ledger", "export", "--follow", "--to", server.url, "--cursor", cursor]
        running = await asyncio.create_subprocess_exec(sys.executable, *command, env=os.environ)
        try:
            await server.until(lambda: bool(server.asked))
            for _ in range(50):
                await asyncio.to_thread(broker.run, broker.app.token("alpha"))
            assert server.accepted == []
            healthy.set()
            size = len(broker.entries())
            await server.until(lambda: len(server.lines) >= size)
        finally:
            running.kill()
            await running.wait()
    assert [json.loads(line)["seq"] for line in server.lines] == list(range(len(server.lines)))
