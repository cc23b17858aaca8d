from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from broker.anchors.syslog import SyslogAnchor
from broker.core.errors import AnchorFailed, Code
from broker.delivery.syslog import SyslogTarget, syslog_target
from tests.support.anchors import GrowingLog
from tests.support.certificates import certificate_for_loopback
from tests.support.fakes import FakeClock
from tests.support.syslog_reader import read_syslog
from tests.support.syslog_server import SyslogServer


@pytest.fixture
def log() -> GrowingLog:
    """A ledger's tree."""
    return GrowingLog()


async def put(target: SyslogTarget | str, log: GrowingLog) -> str:
    """Place one more checkpoint; return its receipt."""
    anchor = SyslogAnchor(syslog_target(target) if isinstance(target, str) else target, clock=FakeClock())
    checkpoint = log.grow()
    return (await anchor.place(checkpoint, log.prove(checkpoint.size))).receipt


async def test_a_message_for_each_checkpoint(log: GrowingLog, tmp_path: Path) -> None:
    """Over TLS: the note as it was signed, size and root to search for; the receipt says that it was read."""
    certificate = certificate_for_loopback(tmp_path)
    async with SyslogServer(certificate) as server:
        target = replace(syslog_target(server.url), ca_file=str(certificate[0]))
        for size in (1, 2):
            assert (await put(target, log)).endswith("read by the receiver")
            message = read_syslog(server.messages[-1])
            checkpoint = log.signed_checkpoint()
            assert checkpoint is not None
            assert message.kind == "ledger.checkpoint"
            assert message.data == {"size": str(size), "root": checkpoint.root.hex()}
            assert json.loads(message.text) == {"note": checkpoint.note}
        assert len(server.messages) == 2


async def test_one_that_is_not_who_it_should_be(log: GrowingLog, tmp_path: Path) -> None:
    """No checkpoint goes to a receiver whose certificate is not trusted, and no file that is missing is skipped."""
    async with SyslogServer(certificate_for_loopback(tmp_path)) as server:
        with pytest.raises(AnchorFailed) as failed:
            await put(server.url, log)
        assert failed.value.code is Code.ANCHOR_UNAVAILABLE
        with pytest.raises(AnchorFailed) as failed:
            await put(replace(syslog_target(server.url), ca_file=str(tmp_path / "missing.pem")), log)
        assert failed.value.code is Code.ANCHOR_REFUSED
        assert server.messages == []


async def test_a_receiver_that_drops_the_connection(log: GrowingLog) -> None:
    """That the system took it is not enough: it is sent again."""
    async with SyslogServer(resets=1) as server:
        with pytest.raises(AnchorFailed) as failed:
            await put(server.url, log)
        assert failed.value.code is Code.ANCHOR_UNAVAILABLE
        assert await put(server.url, log)


async def test_nobody_there(log: GrowingLog, tmp_path: Path) -> None:
    """Neither at a port, nor at a socket of this machine."""
    for url in ("syslog+tcp://127.0.0.1:1", f"syslog:{tmp_path / 'log'}"):
        with pytest.raises(AnchorFailed) as failed:
            await put(url, log)
        assert failed.value.code is Code.ANCHOR_UNAVAILABLE


async def test_datagrams(log: GrowingLog, tmp_path: Path) -> None:
    """They go out whole, and nothing more is claimed of them."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "log"))
        receiver.setblocking(False)
        assert "nobody says whether it arrived" in await put(f"syslog:{tmp_path / 'log'}", log)
        data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(receiver, 65536), 20)
    checkpoint = log.signed_checkpoint()
    assert checkpoint is not None
    assert json.loads(read_syslog(data).text)["note"] == checkpoint.note
