"""Syslog as a sender: over TLS (RFC 5425), plain TCP (RFC 6587), UDP (RFC 5426), or this machine's own socket."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Self
from urllib.parse import urlsplit

from broker.core.errors import Code, Malformed, Unavailable
from broker.core.syslog import Message, octet_counted
from broker.delivery.datagrams import MAX_DATAGRAM, Datagrams
from broker.delivery.stream import Stream

SECONDS: Final = 10.0
"""How long connecting, and each sending, may take."""

LOCAL_SOCKET: Final = "/dev/log"

_HOST: Final = re.compile(r"[A-Za-z0-9:.%_-]{1,253}")


class Transport(StrEnum):
    """The ways that messages can go, by the scheme of a URL."""

    TLS = "syslog+tls"
    TCP = "syslog+tcp"
    UDP = "syslog+udp"
    LOCAL = "syslog"


_PORTS: Final = {Transport.TLS: 6514, Transport.TCP: 601, Transport.UDP: 514}


@dataclass(frozen=True, slots=True, kw_only=True)
class SyslogTarget:
    """A syslog receiver. ``place`` is its host, or the path of a socket of this machine.

    ``ca_file`` is a PEM file with the roots to trust instead of the system's; ``server_name`` is what its certificate
    must be for, if not the host; ``certificate`` and ``key`` are PEM files that show who we are. They are for TLS only.
    """

    transport: Transport
    place: str
    port: int = 0
    ca_file: str | None = None
    server_name: str | None = None
    certificate: str | None = None
    key: str | None = None


def syslog_target(url: str) -> SyslogTarget:
    """Read ``syslog+tls://HOST:PORT``, ``syslog+tcp://…``, ``syslog+udp://…`` or ``syslog:PATH``.

    Without a port it is 6514, 601 or 514; without a path ``/dev/log``. Raises ``Malformed``.
    """
    try:
        parts = urlsplit(url)
        transport, port = Transport(parts.scheme), parts.port
    except ValueError as error:
        raise Malformed(f"not the URL of a syslog receiver: {', '.join(f'{name}:' for name in Transport)}") from error
    if parts.query or parts.fragment or parts.username is not None:
        raise Malformed("a syslog receiver has no user, query or fragment")
    if transport is Transport.LOCAL:
        path = parts.path or LOCAL_SOCKET
        if parts.netloc or not path.startswith("/"):
            raise Malformed("the path of a syslog socket begins with one slash: syslog:/dev/log")
        return SyslogTarget(transport=transport, place=path)
    if parts.path.strip("/") or _HOST.fullmatch(parts.hostname or "") is None:
        raise Malformed(f"a syslog receiver is {transport}://HOST or {transport}://HOST:PORT")
    return SyslogTarget(transport=transport, place=parts.hostname or "", port=port or _PORTS[transport])


class SyslogSender:
    """Sends messages to one receiver, in order. Belongs to one event loop and one user; connects when it must.

    No syslog receiver acknowledges anything: that a message was sent says that the kernel took it. What is on its way
    when a connection breaks may be lost, so whoever must not lose anything sends it again then.
    """

    def __init__(self, target: SyslogTarget, *, host: str | None = None, seconds: float = SECONDS) -> None:
        """``host`` is what the messages name as their origin, this machine's name without it.

        Raises ``OSError`` (``ssl.SSLError`` is one) if a file for TLS cannot be used.
        """
        self._host = host or socket.gethostname()
        self._seconds = seconds
        self._carrier: Stream | Datagrams
        match target.transport:
            case Transport.TLS:
                name = target.server_name or target.place
                self._carrier = Stream((target.place, target.port), tls=_context(target), server_name=name)
            case Transport.TCP:
                self._carrier = Stream((target.place, target.port))
            case Transport.UDP:
                self._carrier = Datagrams((target.place, target.port))
            case Transport.LOCAL:
                self._carrier = Datagrams(target.place)

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the connection at once."""
        self.close()

    @property
    def is_stream(self) -> bool:
        """Whether messages go over a connection, which can be known to have ended."""
        return isinstance(self._carrier, Stream)

    @property
    def broken(self) -> bool:
        """Whether the connection that the last messages went over has ended, so that some of them may be lost."""
        return self._carrier.broken

    async def send(self, messages: Sequence[Message]) -> None:
        """Send messages. Raises ``Unavailable`` when that fails: then any of them may have arrived, or none."""
        try:
            async with asyncio.timeout(self._seconds):
                await self._send(messages)
        except (OSError, ValueError) as error:  # a name that can be none of a machine is a ValueError
            self.close()
            raise Unavailable(Code.ISSUER_UNAVAILABLE, _why(error)) from error

    async def finish(self) -> bool:
        """End the connection in order; whether the receiver is known to have read all that was sent over it.

        It is, if it closes its side after we have closed ours. Datagrams are never known to be read.
        """
        try:
            async with asyncio.timeout(self._seconds):
                return await self._carrier.finish()
        except TimeoutError:
            return False
        finally:
            self.close()

    def close(self) -> None:
        """End the connection at once. May be called twice."""
        self._carrier.close()

    async def _send(self, messages: Sequence[Message]) -> None:
        match self._carrier:
            case Stream() as stream:
                await stream.send(b"".join(octet_counted(message.encode(self._host)) for message in messages))
            case Datagrams() as datagrams:
                for message in messages:
                    await datagrams.send(self._datagram(message))

    def _datagram(self, message: Message) -> bytes:
        """Return a message as one datagram; of one that is too long for it, all but the text, and its length."""
        encoded = message.encode(self._host)
        if len(encoded) <= MAX_DATAGRAM:
            return encoded
        data = {**message.data, "cut": str(len(encoded))}
        return replace(message, data=data, text="too long for a datagram").encode(self._host)


def _context(target: SyslogTarget) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=target.ca_file)
    if target.certificate is not None:
        context.load_cert_chain(target.certificate, target.key)
    return context


def _why(error: Exception) -> str:
    """Return what to tell; only the kind of error, since its text may hold what the receiver chose."""
    match error:
        case ssl.SSLCertVerificationError():
            return "the receiver's certificate is not trusted here, or is for another name"
        case ssl.SSLError():
            return "the receiver does not speak TLS as it should, or does not accept our certificate"
        case TimeoutError():
            return "the receiver does not take anything"
        case ConnectionRefusedError() | FileNotFoundError():
            return "nobody listens there"
        case _:
            return "the receiver cannot be reached, or has closed the connection"
