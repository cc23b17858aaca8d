"""The page on sending the ledger elsewhere: its commands run as they stand there, against receivers that listen."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from broker.core.exporting import FORMATS
from tests.support.broker_app import Template, make_template
from tests.support.broker_thread import broker_thread
from tests.support.certificates import certificate_for_loopback
from tests.support.http_receiver import http_server
from tests.support.syslog_server import SyslogServer

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "send-the-ledger-elsewhere.md").read_text()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker's folder."""
    return make_template(tmp_path_factory.mktemp("template") / "broker")


async def test_the_commands_run(template: Template, tmp_path: Path) -> None:
    """Each ends well, and every receiver has every entry of the ledger."""
    commands = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    assert len(commands) == 4
    files = certificate_for_loopback(tmp_path, "siem-ca")
    (tmp_path / "collector.token").write_text("of-the-collector")
    with broker_thread(template, tmp_path / "home") as broker:
        async with http_server() as collector, http_server() as splunk, SyslogServer(files) as siem:
            places = {
                "COLLECTOR": collector.url,
                "SPLUNK": splunk.url,
                "SPLUNK_TOKEN": "of-splunk",
                "SIEM": siem.url,
                "BROKER_CONFIG": str(broker.config),
                "BROKER_PORT": str(broker.port),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            }
            for command in commands:
                running = await asyncio.create_subprocess_shell(
                    command, cwd=tmp_path, env={**os.environ, **places}, stdout=asyncio.subprocess.PIPE
                )
                out, _ = await running.communicate()
                assert running.returncode == 0, command
                if "--to" not in command:
                    assert out.startswith(b"CEF:0|")
        size = len(broker.entries())
    for name, found in (
        ("otlp", sum(got.body.count('"logRecords"') for got in collector.accepted)),
        ("splunk", len(splunk.lines)),
        ("siem", len(siem.messages)),
    ):
        assert 0 < found <= size
        assert int((tmp_path / f"{name}.cursor").read_text()) == found


def test_every_format_has_its_place() -> None:
    """The table of what to drop duplicates by names every format."""
    (table,) = re.findall(r"\| format \| place \| ledger \|\n.*?\n\n", PAGE, re.DOTALL)
    assert re.findall(r"^\| `([a-z]+)` \|", table, re.MULTILINE) == list(FORMATS)
