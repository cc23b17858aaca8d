"""Whose address a request counts for: the peer's, or, when the peer is a trusted proxy, that of the proxy's client."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import islice
from typing import Final

from broker.http.surface import Network

FORWARDED_FOR: Final = "X-Forwarded-For"
"""The only forwarded header that is ever read. Host and scheme are never taken from a request."""

MAX_PROXIES: Final = 16
"""Proxies in a row; in a longer chain nobody is believed."""

_LONGEST: Final = 64
"""Characters of one element: an IPv6 address in brackets with a port has 53."""

_ELEMENT: Final = re.compile(
    r"(?P<with_port>[0-9.]{7,15})(?::[0-9]{1,5})?"
    r"|\[(?P<in_brackets>[0-9A-Fa-f:.]{2,45})\](?::[0-9]{1,5})?"
    r"|(?P<bare>[0-9A-Fa-f:.]{2,45})"
)

Address = IPv4Address | IPv6Address


def client_address(peer: str, lines: Sequence[str], trusted: Sequence[Network]) -> str:
    """Return the address of who made a request that ``peer`` sent.

    ``lines`` are the request's ``X-Forwarded-For`` header lines in order. Each proxy adds at the right whom it speaks
    for, so they are read from the right, and only as far as a trusted proxy wrote them: the first address that is not
    itself trusted is the client. What stands to the left of it is the client's own word, and is not looked at.

    The peer's own address is returned when the peer is not trusted, and when its header names no client: it is missing,
    it holds something else than an address where the client should be, or trusted addresses alone. An address that
    means "this machine" is no client either: it was said on another machine, and here it would be free of limits.
    """
    sender = parsed_address(peer)
    if sender is None or not _among(sender, trusted):
        return peer
    for element in islice(_from_the_right(lines), MAX_PROXIES):
        address = _element(element)
        if address is None:
            return peer
        if not _among(address, trusted):
            return peer if address.is_loopback or address.is_unspecified else str(address)
    return peer


def parsed_address(address: str) -> Address | None:
    """Return a peer's address, an IPv4-mapped one as IPv4; None for a peer without one (a local socket)."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed


def _from_the_right(lines: Sequence[str]) -> Iterator[str]:
    """Yield the elements of the lines, the last one first; several lines are one list (RFC 9110, 5.3)."""
    for line in reversed(lines):
        # Split no further than anybody will read: a client may have put thousands of elements to the left.
        yield from reversed(line.rsplit(",", MAX_PROXIES)[-MAX_PROXIES:])


def _element(text: str) -> Address | None:
    """Return the address that one element names, with or without a port; None if it is anything else.

    Zones (``%eth0``) are refused: they mean something on the proxy's machine alone, and may hold any text.
    """
    match = _ELEMENT.fullmatch(text.strip(" \t")) if len(text) <= _LONGEST else None
    if match is None or match.lastgroup is None:
        return None
    return parsed_address(match[match.lastgroup])


def _among(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)
