"""The only HTTP client: bounded in time and size, no redirects, and no address that the operator did not allow.

Addresses are checked on the socket that is about to connect, after names were resolved and URLs were read, so that
neither DNS rebinding nor an odd spelling of an address gets past the check. Nothing about a request is logged.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Self

import aiohttp
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from broker.core.errors import Code, Unavailable

CONNECT_SECONDS: Final = 2.0
TOTAL_SECONDS: Final = 5.0
MAX_BYTES: Final = 64 * 1024
MAX_HEADER: Final = 16_384
CONNECTIONS: Final = 32

_NOT_FOR_US: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments; a cloud's metadata lives at .192
        "192.88.99.0/24",  # 6to4 relays
        "168.63.129.16/32",  # a cloud's host agent, on an address that looks public
        "2001::/23",  # protocol assignments, Teredo among them
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "3fff::/20",  # documentation
    )
)
_FAILURES: Final = (aiohttp.ClientError, TimeoutError, OSError, ValueError)
_REDIRECTS: Final = range(300, 400)
_NOT_PUBLIC: Final = "the peer's address is not public, and private ones are not allowed here"
_IPV6_INTERNET: Final = ipaddress.ip_network("2000::/3")  # outside of it: mapped, NAT64, local, reserved


@dataclass(frozen=True, slots=True)
class Destination:
    """What the operator allows for one peer.

    ``allow_http`` lets requests go without TLS, ``allow_private`` to addresses that are not public; ``ca_file`` is a
    PEM file with the roots to trust instead of the system's.
    """

    allow_http: bool = False
    allow_private: bool = False
    ca_file: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer. ``headers`` compare their names without regard to case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Streamed:
    """An answer whose body goes on: its bytes as they come. Iterating raises ``NoReply`` if they end before the end."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes] = field(repr=False)


PUBLIC: Final = Destination()


class Fault(StrEnum):
    """Why there is no answer. After ``slow`` and those below it, the peer may have done what it was asked."""

    FORBIDDEN = "forbidden"
    UNTRUSTED = "untrusted"
    UNREACHABLE = "unreachable"
    SLOW = "slow"
    BROKEN = "broken"
    REDIRECT = "redirect"
    ENCODED = "encoded"
    TOO_LONG = "too_long"


class NoReply(Unavailable):
    """There is no complete answer (``ISSUER_UNAVAILABLE``), and ``fault`` says why."""

    def __init__(self, fault: Fault, public: str, *, retry_after: int | None = None) -> None:
        """``public`` says it for people."""
        super().__init__(Code.ISSUER_UNAVAILABLE, public, retry_after=retry_after)
        self.fault = fault


class Outbound:
    """Makes requests. Belongs to one event loop; close it, or use it as a context."""

    def __init__(
        self,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        total_seconds: float = TOTAL_SECONDS,
        connections: int = CONNECTIONS,
    ) -> None:
        """``total_seconds`` bounds a whole request; so many ``connections`` at most lead to one destination."""
        self._connections = connections
        self._timeout = aiohttp.ClientTimeout(
            total=total_seconds, connect=connect_seconds, sock_connect=connect_seconds, sock_read=total_seconds
        )
        self._begun = aiohttp.ClientTimeout(total=None, connect=connect_seconds, sock_connect=connect_seconds)
        self._sessions: dict[Destination, aiohttp.ClientSession] = {}

    async def __aenter__(self) -> Self:
        """Return itself; connections are made when they are needed."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""
        await self.close()

    async def close(self) -> None:
        """Close all connections. May be called twice."""
        sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            await session.close()

    async def get(
        self,
        url: str,
        destination: Destination = PUBLIC,
        *,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> Reply:
        """GET ``url``. Raises ``NoReply`` for everything but a complete answer."""
        return await self._request("GET", url, destination, headers, None, max_bytes)

    async def post(
        self,
        url: str,
        body: bytes,
        destination: Destination = PUBLIC,
        *,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> Reply:
        """POST ``body`` to ``url``. Raises like :meth:`get`."""
        return await self._request("POST", url, destination, headers, body, max_bytes)

    async def delete(
        self,
        url: str,
        destination: Destination = PUBLIC,
        *,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> Reply:
        """DELETE ``url``. Raises like :meth:`get`."""
        return await self._request("DELETE", url, destination, headers, None, max_bytes)

    @asynccontextmanager
    async def stream(
        self, url: str, destination: Destination = PUBLIC, *, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[Streamed]:
        """GET ``url`` and read its answer while it is made: how long, and how much of it, is for the caller to bound.

        Raises ``NoReply`` unless an answer begins in time.
        """
        target, sent = _target(url, destination), {"Accept-Encoding": "identity", **(headers or {})}
        try:
            async with asyncio.timeout(self._timeout.total):
                response = await self._session(destination).get(
                    target, headers=sent, allow_redirects=False, timeout=self._begun
                )
        except _FAILURES as error:
            raise _failed(error) from error
        try:
            _check_head(response)
            yield Streamed(response.status, response.headers, _chunks(response))
        finally:
            response.close()

    async def _request(
        self,
        method: str,
        url: str,
        destination: Destination,
        headers: Mapping[str, str] | None,
        body: bytes | None,
        max_bytes: int,
    ) -> Reply:
        target = _target(url, destination)
        sent = {"Accept-Encoding": "identity", **(headers or {})}
        try:
            async with self._session(destination).request(
                method, target, headers=sent, data=body, allow_redirects=False
            ) as response:
                return await _complete(response, max_bytes)
        except _FAILURES as error:
            raise _failed(error) from error

    def _session(self, destination: Destination) -> aiohttp.ClientSession:
        session = self._sessions.get(destination)
        if session is None:
            connector = aiohttp.TCPConnector(
                resolver=ThreadedResolver(),
                socket_factory=_any_socket if destination.allow_private else _public_socket,
                ssl=ssl.create_default_context(cafile=destination.ca_file),
                limit=self._connections,
                use_dns_cache=False,
            )
            session = aiohttp.ClientSession(
                connector=connector,
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                max_line_size=MAX_HEADER,
                max_field_size=MAX_HEADER,
            )
            self._sessions[destination] = session
        return session


def destination_of(url: str, *, ca_file: str | None = None) -> Destination:
    """Return what is allowed for a URL that whoever runs this program has named, and nobody else.

    It may lead to a private address, since that is where services are; plain http is for this machine only.
    """
    try:
        host = URL(url).host or ""
    except ValueError:
        host = ""
    return Destination(allow_http=_is_this_machine(host), allow_private=True, ca_file=ca_file)


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet, and is not another address in disguise."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6 and ip not in _IPV6_INTERNET:  # noqa: PLR2004 - IPv6
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or any(ip in network for network in _NOT_FOR_US))


def _target(url: str, destination: Destination) -> URL:
    """Read a URL once, the way the connection will. Raises ``NoReply`` if it must not be asked."""
    try:
        target = URL(url)
    except ValueError as error:
        raise NoReply(Fault.FORBIDDEN, "the URL is not valid") from error
    if target.scheme != "https" and not (target.scheme == "http" and destination.allow_http):
        raise NoReply(Fault.FORBIDDEN, "only https URLs are asked")
    if not target.host or target.user is not None or target.password is not None:
        raise NoReply(Fault.FORBIDDEN, "the URL names no host, or a user")
    return target


def _any_socket(where: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = where
    return socket.socket(family, kind, protocol)


def _public_socket(where: aiohttp.AddrInfoType) -> socket.socket:
    """Return a socket to connect to this address, or raise ``OSError`` if it is not public."""
    if not is_public(str(where[4][0])):
        raise OSError(_NOT_PUBLIC)
    return _any_socket(where)


def _check_head(response: aiohttp.ClientResponse) -> None:
    """Raise ``NoReply`` for answers that are never taken, whatever their body."""
    if response.status in _REDIRECTS:
        raise NoReply(Fault.REDIRECT, "the peer answered with a redirect, and none is followed")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise NoReply(Fault.ENCODED, "the peer answered with an encoding that was not asked for")


async def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except _FAILURES as error:
        raise _failed(error) from error


async def _complete(response: aiohttp.ClientResponse, max_bytes: int) -> Reply:
    _check_head(response)
    if response.content_length is not None and response.content_length > max_bytes:
        raise NoReply(Fault.TOO_LONG, f"the peer's answer is longer than {max_bytes} bytes")
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > max_bytes:
            raise NoReply(Fault.TOO_LONG, f"the peer's answer is longer than {max_bytes} bytes")
    return Reply(response.status, response.headers, bytes(body))


def _failed(error: Exception) -> NoReply:
    match error:
        case aiohttp.ClientConnectorCertificateError():
            fault, text = Fault.UNTRUSTED, "the peer's certificate is not trusted here"
        case aiohttp.ClientConnectorError() if _NOT_PUBLIC in str(error.os_error):
            fault, text = Fault.FORBIDDEN, _NOT_PUBLIC
        case aiohttp.ClientConnectorError():
            fault, text = Fault.UNREACHABLE, "the peer could not be asked"
        case aiohttp.ConnectionTimeoutError():
            fault, text = Fault.UNREACHABLE, "the peer did not answer in time"
        case TimeoutError():
            fault, text = Fault.SLOW, "the peer did not answer in time"
        case _:
            fault, text = Fault.BROKEN, "the peer could not be asked"
    return NoReply(fault, text, retry_after=5)
