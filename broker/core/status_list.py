"""Token Status Lists (draft-ietf-oauth-status-list): one bit for each token, for verifiers that know no rules.

A token's id says its place: ``tok_01K….4711`` has bit 4711 of the list ``tok_01K…``. So what the ledger holds of tokens
anyway is all that a list is made of, whoever issued them.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from typing import Any, Final

from broker.core import base64url

TYP: Final = "statuslist+jwt"

SIZE: Final = 2**17
"""How many tokens a list has room for."""

TTL: Final = 30
"""For how many seconds a verifier may go on with its copy of a list."""

LIFETIME: Final = 300
"""After how many seconds a list must not be believed any more: verifiers that reach no broker refuse what they get."""

OPEN_SECONDS: Final = 3600
"""For how long new tokens get places in the same list."""

NONE: Final = bytes(SIZE // 8)
ALL: Final = b"\xff" * (SIZE // 8)
"""The bits of a list none, or all, of whose tokens are dead."""

_PATH: Final = "/status/lists/"
_SEPARATOR: Final = "."
_AFTER_SEPARATOR: Final = "/"
_PLACED: Final = re.compile(r"(tok_[0-9A-Z]{26})\.(0|[1-9][0-9]{0,5})")


def id_at(list_id: str, index: int) -> str:
    """Return the id of the token at a place."""
    return f"{list_id}{_SEPARATOR}{index}"


def ids_in(list_id: str) -> tuple[str, str]:
    """Return texts between which, in the order of their bytes, are the ids of a list's tokens and no others."""
    return list_id + _SEPARATOR, list_id + _AFTER_SEPARATOR


def index_of(token_id: str) -> int:
    """Return at which place of its list a token is that has one."""
    return int(token_id.rpartition(_SEPARATOR)[2])


def uri_of(issuer: str, list_id: str) -> str:
    """Return where a list is found, by which tokens name it."""
    return f"{issuer}{_PATH}{list_id}"


def status_claim(issuer: str, token_id: str) -> dict[str, Any] | None:
    """Return the claim ``status`` of a token; None if it is in no list."""
    placed = _PLACED.fullmatch(token_id)
    if placed is None or int(placed[2]) >= SIZE:
        return None
    return {"status_list": {"idx": int(placed[2]), "uri": uri_of(issuer, placed[1])}}


def marked(dead: Iterable[int], size: int = SIZE) -> bytes:
    """Return the bits of a list some of whose places are dead; place 0 is the lowest bit of the first byte."""
    result = bytearray(size // 8)
    for index in dead:
        result[index >> 3] |= 1 << (index & 7)
    return bytes(result)


def joined(one: bytes, other: bytes) -> bytes:
    """Return the bits that are set here or there."""
    return (int.from_bytes(one) | int.from_bytes(other)).to_bytes(len(one))


def packed(bits: bytes) -> str:
    """Return bits as the member ``lst`` has them: compressed with zlib, in base64url."""
    return base64url.encode(zlib.compress(bits, 9))


def status_list_payload(uri: str, bits: bytes, now: float) -> dict[str, Any]:
    """Return the payload of a list as it is at ``now`` (Unix seconds)."""
    return {
        "sub": uri,
        "iat": int(now),
        "exp": int(now) + LIFETIME,
        "ttl": TTL,
        "status_list": {"bits": 1, "lst": packed(bits)},
    }
