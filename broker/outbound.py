"""The only HTTP client: bounded in time and size, no redirects, and no address that the operator did not allow.

Addresses are checked when a connection is made, on what the name resolved to, so that DNS rebinding cannot get past the
check. Nothing about a request is logged.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from broker.core.errors import Code, Unavailable

CONNECT_SECONDS: Final = 2.0
TOTAL_SECONDS: Final = 5.0
MAX_BYTES: Final = 64 * 1024
MAX_HEADER: Final = 16_384
CONNECTIONS: Final = 32

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_LOCAL_NAT64: Final = ipaddress.ip_network("64:ff9b:1::/48")


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


PUBLIC: Final = Destination()


class Outbound:
    """Makes requests. Belongs to one event loop; close it, or use it as a context."""

    def __init__(self, *, connect_seconds: float = CONNECT_SECONDS, total_seconds: float = TOTAL_SECONDS) -> None:
        """``total_seconds`` bounds a whole request, its body included."""
        self._timeout = aiohttp.ClientTimeout(
            total=total_seconds, connect=connect_seconds, sock_connect=connect_seconds, sock_read=total_seconds
        )
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
        """GET ``url``. Raises ``Unavailable`` (``ISSUER_UNAVAILABLE``) for everything but a complete answer."""
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

    async def _request(
        self,
        method: str,
        url: str,
        destination: Destination,
        headers: Mapping[str, str] | None,
        body: bytes | None,
        max_bytes: int,
    ) -> Reply:
        check_url(url, destination)
        sent = {"Accept-Encoding": "identity", **(headers or {})}
        try:
            async with self._session(destination).request(
                method, url, headers=sent, data=body, allow_redirects=False
            ) as response:
                return await _complete(response, max_bytes)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _failed(error) from error

    def _session(self, destination: Destination) -> aiohttp.ClientSession:
        session = self._sessions.get(destination)
        if session is None:
            connector = aiohttp.TCPConnector(
                resolver=_CheckedResolver(destination),
                ssl=ssl.create_default_context(cafile=destination.ca_file),
                limit=CONNECTIONS,
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


def check_url(url: str, destination: Destination) -> None:
    """Raise ``Unavailable`` unless ``url`` is one that may be asked at all: scheme, no user, an allowed address."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError as error:
        raise _refused("the URL is not valid") from error
    if parts.scheme != "https" and not (parts.scheme == "http" and destination.allow_http):
        raise _refused("only https URLs are asked")
    if not host or parts.username is not None or parts.password is not None:
        raise _refused("the URL names no host, or a user")
    try:
        literal = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return
    if not (destination.allow_private or is_public(literal)):
        raise _refused("the address is not public, and private ones are not allowed here")


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is on the public internet; what it embeds (mapped, 6to4, Teredo, NAT64) must be, too."""
    if not address.is_global or address.is_multicast or address.is_reserved or address.is_unspecified:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return True
    if address in _LOCAL_NAT64:
        return False
    embedded = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        embedded.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return all(inner.is_global and not inner.is_multicast for inner in embedded if inner is not None)


class _CheckedResolver(AbstractResolver):
    """Resolves names, and gives back only addresses that may be connected to."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the allowed addresses of ``host``. Raises ``OSError`` if there are none."""
        found = await self._resolver.resolve(host, port, family)
        if self._destination.allow_private:
            return found
        allowed = [one for one in found if is_public(ipaddress.ip_address(one["host"].partition("%")[0]))]
        if not allowed:
            msg = "the name resolves to no public address"
            raise OSError(msg)
        return allowed

    async def close(self) -> None:
        """Nothing is held."""


async def _complete(response: aiohttp.ClientResponse, max_bytes: int) -> Reply:
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _refused("the peer answered with an encoding that was not asked for")
    if response.content_length is not None and response.content_length > max_bytes:
        raise _refused(f"the peer's answer is longer than {max_bytes} bytes")
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > max_bytes:
            raise _refused(f"the peer's answer is longer than {max_bytes} bytes")
    return Reply(response.status, response.headers, bytes(body))


def _refused(text: str) -> Unavailable:
    return Unavailable(Code.ISSUER_UNAVAILABLE, text)


def _failed(error: Exception) -> Unavailable:
    text = "the peer did not answer in time" if isinstance(error, TimeoutError) else "the peer could not be asked"
    return Unavailable(Code.ISSUER_UNAVAILABLE, text, retry_after=5)
