"""Addresses in settings: which can be an issuer, a backend, a listener, a proxy."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Final

from broker.config.problems import fail

ORIGIN: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?|\[[0-9a-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?"
)
"""A scheme, a host, and perhaps a port: nothing else."""

MAX_PORT: Final = 65_535


def network_problem(text: str) -> str | None:
    """Return what is wrong with a network whose hosts are to be trusted, or None."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        return "must be an IP address or network, such as 10.0.0.5 or 10.0.0.0/24, without host bits"
    if network.prefixlen == 0:
        return "would trust everybody"
    if "%" in text:
        return "must not have a zone"
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped is not None:
        return "write it as an IPv4 network"  # IPv4 peers are compared as IPv4, so this one would never match
    return None


def issuer_problem(issuer: str, *, tls_ends_in_front: bool = False) -> str | None:
    """Return what is wrong with an issuer URL (protocol sheet B.1), or None.

    https, lower-case host, no path, query, fragment, user or trailing slash. Plain http and a port are for loopback
    addresses only, or when TLS ends in front of the broker.
    """
    match = ORIGIN.fullmatch(issuer)
    if match is None:
        return "must be https:// and a lower-case host only: no path, query, fragment, user or trailing slash"
    if match["port"] is not None and int(match["port"]) > MAX_PORT:
        return f"the port must be 0 to {MAX_PORT}"
    loopback = is_loopback(match["host"])
    if match["scheme"] == "http" and not (loopback or tls_ends_in_front):
        return "plain http is for loopback addresses only, unless tls_ends_in_front = true"
    if match["port"] is not None and not (loopback or tls_ends_in_front):
        return "must not have a port"
    return None


def is_loopback(host: str) -> bool:
    """Whether a host, as it stands in a URL, is this machine itself."""
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_url(where: str, url: str, path: Path) -> None:
    """Raise ``ConfigError`` unless a backend can be reached there safely."""
    match = ORIGIN.fullmatch(url)
    if match is None or (match["scheme"] == "http" and not is_loopback(match["host"])):
        fail(path, f"{where}: must be https:// and a host, perhaps with a port; http:// on loopback addresses only")
