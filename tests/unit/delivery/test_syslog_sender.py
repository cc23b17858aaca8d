"""Syslog: framed and encrypted as the RFCs have it, only to whom the certificate names, and honest about loss."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from broker.core.errors import Malformed, Unavailable
from broker.core.syslog import Message, Severity
from broker.delivery.datagrams import MAX_DATAGRAM
from broker.delivery.syslog import SyslogSender, SyslogTarget, Transport, syslog_target
from tests.support.certificates import certificate_for_loopback
from tests.support.leases import eventually
from tests.support.running_broker import free_port
from tests.support.syslog_reader import read_syslog
from tests.support.syslog_server import SyslogServer


def message(seq: int = 0, text: str = "CEF:0|a|b") -> Message:
    """Return a message."""
    return Message(
        severity=Severity.WARNING,
        milliseconds=1_795_300_000_123,
        kind="token.refused",
        data={"seq": str(seq)},
        text=text,
    )


def places(server: SyslogServer) -> list[int]:
    """Return the numbers of the messages that arrived."""
    return [int(read_syslog(got).data["seq"]) for got in server.messages]


async def test_tls(tmp_path: Path) -> None:
    """Messages arrive over TLS, each with its frame, in order; the end is confirmed."""
    certificate = certificate_for_loopback(tmp_path)
    async with SyslogServer(certificate) as server:
        target = SyslogTarget(transport=Transport.TLS, place="127.0.0.1", port=server.port, ca_file=str(certificate[0]))
        async with SyslogSender(target, host="broker-1") as sender:
            await sender.send([message(0), message(1, "two\nlines \u00e9")])
            await sender.send([message(2)])
            assert await sender.finish() is True
    assert places(server) == [0, 1, 2]
    assert server.connections == 1
    assert server.messages[0] == (
        b'<108>1 2026-11-21T22:26:40.123Z broker-1 broker - token.refused [broker@32473 seq="0"] CEF:0|a|b'
    )
    assert server.messages[1].endswith("] two\\x0alines \u00e9".encode())


async def test_a_receiver_that_is_not_who_it_should_be(tmp_path: Path) -> None:
    """No message goes to one whose certificate is of another name, or of no authority that is trusted here."""
    certificate, other = certificate_for_loopback(tmp_path), certificate_for_loopback(tmp_path, "other")
    async with SyslogServer(certificate) as server:
        target = SyslogTarget(transport=Transport.TLS, place="127.0.0.1", port=server.port)
        trusted = {"ca_file": str(certificate[0])}
        for files in ({}, {"ca_file": str(other[0])}, {**trusted, "server_name": "logs.example"}):
            made = SyslogTarget(transport=target.transport, place=target.place, port=target.port, **files)
            with pytest.raises(Unavailable, match="issuer_unavailable") as raised:
                await SyslogSender(made).send([message()])
            assert "certificate" in raised.value.public
    assert server.messages == []


async def test_a_certificate_of_our_own(tmp_path: Path) -> None:
    """A receiver that wants to know who sends is shown a certificate; without one it takes nothing for good."""
    certificate, ours = certificate_for_loopback(tmp_path), certificate_for_loopback(tmp_path, "client")
    async with SyslogServer(certificate, client_ca=ours[0]) as server:
        known = SyslogTarget(
            transport=Transport.TLS,
            place="127.0.0.1",
            port=server.port,
            ca_file=str(certificate[0]),
            certificate=str(ours[0]),
            key=str(ours[1]),
        )
        async with SyslogSender(known) as sender:
            await sender.send([message()])
            assert await sender.finish() is True
        stranger = SyslogTarget(
            transport=Transport.TLS, place="127.0.0.1", port=server.port, ca_file=str(certificate[0])
        )
        async with SyslogSender(stranger) as sender:
            try:  # TLS 1.3 refuses a client after it believes to be connected
                await sender.send([message(1)])
                assert await sender.finish() is False
            except Unavailable:
                pass
    assert places(server) == [0]


async def test_a_broken_connection_is_told() -> None:
    """The peer's end is noticed before anything else is sent, and the next sending makes a new connection."""
    async with SyslogServer() as server, SyslogSender(syslog_target(server.url)) as sender:
        await sender.send([message(0)])
        await server.got(1)
        assert not sender.broken
        server.drop()
        await eventually(lambda: sender.broken)
        with pytest.raises(Unavailable):
            await sender.send([message(1)])
        assert not sender.broken
        await sender.send([message(2)])
        assert await sender.finish() is True
    assert places(server) == [0, 2]


async def test_an_end_that_nobody_confirms() -> None:
    """A receiver that reads nothing confirms nothing."""
    async with SyslogServer(stops_at=0) as server, SyslogSender(syslog_target(server.url)) as sender:
        await sender.send([message(0)])
        await server.connected()
        server.drop()
        await eventually(lambda: sender.broken)
        assert await sender.finish() is False


async def test_a_receiver_that_hangs() -> None:
    """Sending ends after its time, however much is left."""
    async with SyslogServer(stops_at=0) as server:
        async with SyslogSender(syslog_target(server.url), seconds=0.2) as sender:
            large = [message(seq, "x" * 100_000) for seq in range(300)]
            with pytest.raises(Unavailable, match="issuer_unavailable") as raised:
                await sender.send(large)
            await sender.send([message()])
            assert await sender.finish() is False
        assert raised.value.public == "the receiver does not take anything"


async def test_nobody_listens() -> None:
    """It is told, and cannot be mistaken for success."""
    sender = SyslogSender(syslog_target(f"syslog+tcp://127.0.0.1:{free_port()}"))
    with pytest.raises(Unavailable, match="issuer_unavailable") as raised:
        await sender.send([message()])
    assert raised.value.public == "nobody listens there"


@pytest.mark.parametrize("host", ["x" * 64, ".example", "a..b"])
async def test_a_name_of_nobody(host: str) -> None:
    """A name that no machine can have is a receiver that cannot be reached, and no defect of ours."""
    with pytest.raises(Unavailable, match="issuer_unavailable"):
        await SyslogSender(syslog_target(f"syslog+tcp://{host}")).send([message()])


async def test_datagrams(tmp_path: Path) -> None:
    """Over UDP and to a local socket a message is a datagram; of one that is too long, the place and its size."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as internet,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as local,
    ):
        internet.bind(("127.0.0.1", 0))
        local.bind(str(tmp_path / "log"))
        for receiver, url in (
            (internet, f"syslog+udp://127.0.0.1:{internet.getsockname()[1]}"),
            (local, f"syslog:{tmp_path / 'log'}"),
        ):
            receiver.settimeout(10)
            async with SyslogSender(syslog_target(url)) as sender:
                await sender.send([message(0), message(1, "x" * MAX_DATAGRAM)])
                assert await sender.finish() is False
            first, second = (receiver.recv(65_536) for _ in range(2))
            assert first.endswith(b'[broker@32473 seq="0"] CEF:0|a|b')
            assert b'[broker@32473 seq="1" cut="82' in second
            assert len(second) < 200


async def test_a_socket_that_is_not_there(tmp_path: Path) -> None:
    """A machine without a syslog daemon is told as what it is."""
    with pytest.raises(Unavailable, match="issuer_unavailable"):
        await SyslogSender(syslog_target(f"syslog:{tmp_path / 'none'}")).send([message()])


def test_addresses() -> None:
    """Every kind has its port."""
    assert syslog_target("syslog+tls://logs.example") == SyslogTarget(
        transport=Transport.TLS, place="logs.example", port=6514
    )
    assert syslog_target("syslog+tcp://[::1]/").port == 601
    assert syslog_target("syslog+udp://logs.example:5140").port == 5140
    assert syslog_target("syslog:").place == "/dev/log"
    assert syslog_target("syslog:///run/log").place == "/run/log"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://logs.example",
        "syslog+tls://",
        "syslog+tls://a b",
        "syslog+tls://logs.example:99999",
        "syslog+tls://user@logs.example",
        "syslog+tls://logs.example/path",
        "syslog+udp://logs.example?x=1",
        "syslog://host/dev/log",
        "syslog:dev/log",
    ],
)
def test_what_is_no_address(url: str) -> None:
    """It is refused, not guessed at."""
    with pytest.raises(Malformed):
        syslog_target(url)
