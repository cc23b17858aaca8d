"""Base64url without padding, in its one canonical form (RFC 4648, 3.5 and 5; RFC 7515, appendix C)."""

from __future__ import annotations

import re
from binascii import Error, a2b_base64, b2a_base64
from typing import Final

_ALPHABET: Final = re.compile(r"[A-Za-z0-9_-]*")
_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_PADDING: Final = ("", None, "==", "=")
_LAST: Final = {2: frozenset("AQgw"), 3: frozenset("AEIMQUYcgkosw048")}
"""The last characters whose unused bits are zero, by the number of characters in the last group."""


def encode(data: bytes) -> str:
    """Return ``data`` as base64url, without padding."""
    return b2a_base64(data, newline=False).translate(_TO_URL).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """Return the bytes that ``text`` stands for. Raises ``ValueError`` unless it is what :func:`encode` would give."""
    if _ALPHABET.fullmatch(text) is None:
        raise ValueError("not base64url without padding")
    rest = len(text) & 3
    padding = _PADDING[rest]
    if padding is None or (rest and text[-1] not in _LAST[rest]):
        raise ValueError("not base64url in canonical form")
    try:
        return a2b_base64((text + padding).encode("ascii").translate(_TO_STANDARD))
    except Error as error:  # pragma: no cover - the checks above leave nothing to refuse
        raise ValueError("not base64url") from error
