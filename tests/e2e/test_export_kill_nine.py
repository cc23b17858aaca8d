"""An export is killed again and again while it sends: the receiver has every entry, and in order."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.certificates import certificate_for_loopback
from tests.support.http_receiver import HttpServer, http_server
from tests.support.ledgers import opened
from tests.support.syslog_reader import read_syslog
from tests.support.syslog_server import SyslogServer

ENTRIES = 3_000
KILLS = 2


async def make_ledger(path: Path) -> None:
    """Fill a ledger."""
    async with opened(path) as bench:
        await asyncio.gather(*(bench.issue(f"tok_{number}") for number in range(ENTRIES)))


@asynccontextmanager
async def exporting(*arguments: object) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run an export, and kill it at the end if it is still there."""
    command = [sys.executable, "-m", "broker", "ledger", "export", *map(str, arguments)]
    running = await asyncio.create_subprocess_exec(*command)
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()


async def killed_again_and_again(
    arguments: tuple[object, ...], cursor: Path, receiver: HttpServer | SyslogServer
) -> None:
    """Kill exports in the middle, each after its part of the ledger; let the last one come to its end."""
    for number in range(1, KILLS + 1):
        receiver.stops_at = ENTRIES * number // (KILLS + 1)
        async with exporting(*arguments, "--cursor", cursor):
            await receiver.stopped()
    receiver.stops_at = None
    async with exporting(*arguments, "--cursor", cursor) as last:
        assert await last.wait() == 0


def assert_whole(places: list[int], cursor: Path) -> None:
    """Every entry is there, and in order once what came before is dropped, as receivers do."""
    assert len(places) >= ENTRIES
    assert list(dict.fromkeys(places)) == list(range(ENTRIES))
    assert int(cursor.read_text()) == ENTRIES


async def test_http(tmp_path: Path) -> None:
    """Over HTTP, what was not acknowledged comes again."""
    ledger, cursor = tmp_path / "ledger.db", tmp_path / "cursor"
    await make_ledger(ledger)
    async with http_server() as server:
        await killed_again_and_again(("--file", ledger, "--to", server.url), cursor, server)
    assert_whole([json.loads(line)["seq"] for line in server.lines], cursor)


async def test_syslog_over_tls(tmp_path: Path) -> None:
    """Over TLS nothing is acknowledged: after a break, what may have been on its way comes again."""
    ledger, cursor = tmp_path / "ledger.db", tmp_path / "cursor"
    certificate = certificate_for_loopback(tmp_path)
    await make_ledger(ledger)
    async with SyslogServer(certificate, reset_after=100, resets=1) as server:
        arguments = ("--file", ledger, "--to", server.url, "--format", "cef", "--ca-file", certificate[0])
        await killed_again_and_again(arguments, cursor, server)
        assert server.connections == KILLS + 2
    assert_whole([int(read_syslog(message).data["seq"]) for message in server.messages], cursor)
