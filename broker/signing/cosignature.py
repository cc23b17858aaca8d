"""Cosignatures: a witness states when it saw which tree of a log, after it checked that nothing was taken back.

Source: C2SP tlog-cosignature (https://c2sp.org/tlog-cosignature), the Ed25519 kind, ``cosignature/v1``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature

from broker.signing.checkpoint import NoteError, VerifierKey, parse_verifier_key, signatures_by, split_note

COSIGNATURE_V1: Final = b"\x04"
"""The type of the keys of witnesses."""

MAX_TIME: Final = 2**63 - 1

_TIME: Final = struct.Struct(">Q")
_SIGNATURE_SIZE: Final = 64


@dataclass(frozen=True, slots=True)
class Cosignatures:
    """The cosignatures of one witness: their lines, each ended by a newline, and the youngest time (Unix seconds)."""

    lines: str
    at: int


def parse_witness_key(vkey: str) -> VerifierKey:
    """Return the key that the vkey of a witness describes. Raises ``VerifierKeyError``."""
    return parse_verifier_key(vkey, COSIGNATURE_V1)


def verified_cosignatures(note: str, lines: str, key: VerifierKey) -> Cosignatures:
    """Return those of the signature ``lines`` that are cosignatures by the key on a note; others' are left out.

    Raises ``NoteError`` if a line is malformed, if none is by this key, or if one that claims to be is wrong.
    """
    if not lines.endswith("\n"):
        raise NoteError("signature lines end in a newline")
    text, _ = split_note(note)
    ours = signatures_by(key, lines.removesuffix("\n").split("\n"))
    times = [_verified_time(text, value, key) for _, value in ours]
    return Cosignatures("".join(f"{line}\n" for line, _ in ours), max(times))


def _verified_time(text: str, value: bytes, key: VerifierKey) -> int:
    if len(value) != _TIME.size + _SIGNATURE_SIZE:
        raise NoteError(f"a cosignature has {_TIME.size + _SIGNATURE_SIZE} bytes behind the key id")
    (time,) = _TIME.unpack_from(value)
    if time > MAX_TIME:
        raise NoteError("the time of a cosignature must be below 2^63")
    try:
        key.public_key.verify(value[_TIME.size :], _message(text, time))
    except InvalidSignature as error:
        raise NoteError(f"the cosignature by {key.name}+{key.key_id.hex()} is wrong") from error
    return int(time)


def _message(text: str, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()
