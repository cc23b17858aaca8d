"""Audiences: the absolute URIs that name resource servers, in the one form in which they are compared (RFC 8707)."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from broker.core.errors import Malformed

MAX_AUDIENCE: Final = 512
"""The longest audience in characters: a revocation selector must be able to name it."""

_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21\x24-\x3B\x3D\x3F-\x5B\x5D\x5F\x61-\x7A\x7E]+")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def canonical_audience(text: str, name: str = "audience") -> str:
    """Return an absolute URI in the form in which audiences are compared.

    Scheme and host become lower-case, a default port and the path of a bare ``/`` go away; nothing else changes.
    ``name`` is the field to speak of. Raises ``Malformed`` for anything but an absolute URI without fragment or user
    info.
    """
    if len(text) > MAX_AUDIENCE or _URI.fullmatch(text) is None:
        raise Malformed(f"{name}: must be an absolute URI of at most {MAX_AUDIENCE} characters, without a fragment")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise Malformed(f"{name}: not a valid URI") from error
    if "@" in parts.netloc:
        raise Malformed(f"{name}: must not have user info")
    if parts.scheme in _DEFAULT_PORTS and not parts.hostname:
        raise Malformed(f"{name}: must name a host")
    if not parts.netloc:
        return parts.scheme + text[len(parts.scheme) :]
    host = parts.netloc.lower()
    if port is None or port == _DEFAULT_PORTS.get(parts.scheme):
        host = re.sub(r":[0-9]*\Z", "", host)
    rest = text[text.index("//") + 2 + len(parts.netloc) :]
    return f"{parts.scheme}://{host}" + ("" if rest == "/" else rest)
