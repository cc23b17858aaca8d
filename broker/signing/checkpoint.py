"""Signed statements of the ledger's size and root, in the form that transparency-log tools read.

A checkpoint is a C2SP *signed note* with a fixed body (https://c2sp.org/tlog-checkpoint, https://c2sp.org/signed-note):
origin, tree size, root hash; an empty line; then one line for each signature. Only Ed25519 signatures (type 0x01) are
made and verified here. Signatures by other keys, such as witness cosignatures, are skipped, as the specification wants.

A log must never sign two checkpoints that contradict each other. That is the duty of the caller, which makes the size
durable before it signs.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from broker.core.merkle import EMPTY_ROOT, HASH_SIZE
from broker.signing.strict_base64 import decode, encode

MAX_NOTE_SIZE: Final = 16 * 1024
"""Longest note that is read, in bytes of UTF-8: room for a body and well over a hundred Ed25519 signatures."""

MAX_TREE_SIZE: Final = 2**63 - 1
"""Largest tree size, in leaves; readers of checkpoints commonly keep it in a signed 64-bit number."""

ED25519: Final = b"\x01"
"""The type of keys that sign notes as such; witnesses' keys have another one."""

_KEY_ID_SIZE: Final = 4
_PUBLIC_KEY_SIZE: Final = 32
_CHECKPOINT_LINES: Final = 3
_SIGNATURE_MARK: Final = "\N{EM DASH} "
_CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")
_KEY_NAME: Final = re.compile(r"[^\s+\x00-\x1f\ud800-\udfff]+")
_SIGNATURE_LINE: Final = re.compile(rf"{_SIGNATURE_MARK}(?P<name>{_KEY_NAME.pattern}) (?P<value>[^ ]+)")
_KEY_ID_HEX: Final = re.compile(r"[0-9a-f]{8}")
_TREE_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")


class NoteError(ValueError):
    """The note is malformed, or is not signed by the expected key; nothing in it may be believed."""


class VerifierKeyError(ValueError):
    """The text is not a verifier key for Ed25519, or a name cannot be the name of a key."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key under a name, as decoded from a vkey; `key_id` is the 4-byte hint that stands in signatures."""

    name: str
    key_id: bytes
    public_key: Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The claim that the log `origin` had `size` leaves and this 32-byte RFC 6962 root.

    Raises:
        NoteError: origin empty or with control characters, size out of range, root not a root of such a tree.
    """

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        """Refuse a claim that could not be written down unambiguously."""
        _utf8(self.origin)
        if not self.origin or "\n" in self.origin:
            raise NoteError("the origin must be one line that is not empty")
        if not 0 <= self.size <= MAX_TREE_SIZE:
            raise NoteError(f"the tree size must be from 0 to {MAX_TREE_SIZE}")
        if len(self.root) != HASH_SIZE:
            raise NoteError(f"the root hash must have {HASH_SIZE} bytes, not {len(self.root)}")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise NoteError("a tree of size 0 has another root hash")

    def body(self) -> str:
        """Return the text that is signed: three lines, each ended by a newline."""
        return f"{self.origin}\n{self.size}\n{encode(self.root)}\n"


def sign_checkpoint(checkpoint: Checkpoint, name: str, private_key: Ed25519PrivateKey) -> str:
    """Return the checkpoint as a note signed under the key name, which should equal the origin.

    Raises:
        VerifierKeyError: the name is empty or contains spaces or `+`.
        NoteError: the note would be longer than `MAX_NOTE_SIZE`.
    """
    return sign_note(checkpoint.body(), name, private_key)


def open_note(text: str, vkey: str) -> Checkpoint:
    """Return the checkpoint in a note that is signed by the key `vkey`.

    Extension lines after the root are covered by the signature, but have no meaning here and are dropped. The caller
    compares `origin` with the log it wants to hear about, if the key signs for more than one.

    Raises:
        NoteError: the note is malformed, is not a checkpoint, or lacks a good signature by this key.
        VerifierKeyError: `vkey` is malformed.
    """
    return _parse_body(verified_text(text, parse_verifier_key(vkey)))


def claimed(text: str) -> Checkpoint:
    """Return what a note claims, without verifying any signature: for whoever checks size and root in another way.

    Raises:
        NoteError: the note is malformed or is not a checkpoint.
    """
    return _parse_body(split_note(text)[0])


def verifier_key(name: str, public_key: Ed25519PublicKey, kind: bytes = ED25519) -> str:
    """Return the vkey by which others verify: `<name>+<key id in hex>+<base64 of the kind and the public key>`.

    Raises:
        VerifierKeyError: the name is empty or contains spaces or `+`.
    """
    return f"{name}+{_key_id(name, public_key, kind).hex()}+{encode(kind + public_key.public_bytes_raw())}"


def parse_verifier_key(vkey: str, kind: bytes = ED25519) -> VerifierKey:
    """Return the key that a vkey describes. All kinds of keys that are read here are Ed25519 public keys.

    Raises:
        VerifierKeyError: malformed, not of this kind, or the key id does not belong to the name and key.
    """
    name, _, rest = vkey.partition("+")
    key_id, _, encoded = rest.partition("+")
    if not _KEY_ID_HEX.fullmatch(key_id):
        raise VerifierKeyError("a verifier key has the form <name>+<8 lower-case hex digits>+<base64>")
    key = decode(encoded)
    if key is None or len(key) != len(kind) + _PUBLIC_KEY_SIZE or not key.startswith(kind):
        raise VerifierKeyError(f"the verifier key is not the base64 of an Ed25519 key (0x{kind.hex()} and 32 bytes)")
    public_key = Ed25519PublicKey.from_public_bytes(key.removeprefix(kind))
    expected = _key_id(name, public_key, kind)
    if key_id != expected.hex():
        raise VerifierKeyError(f"the key id {key_id} does not belong to this name and key")
    return VerifierKey(name, expected, public_key)


def sign_note(text: str, name: str, private_key: Ed25519PrivateKey) -> str:
    """Return any text as a signed note: the text, an empty line, one signature line.

    Raises:
        NoteError: the text does not end in a newline or contains control characters, or the note would be too long.
        VerifierKeyError: the name is empty or contains spaces or `+`.
    """
    if not text.endswith("\n"):
        raise NoteError("the text of a note must end in a newline")
    key_id = _key_id(name, private_key.public_key())
    signature = private_key.sign(_note_bytes(text))
    note = f"{text}\n{_SIGNATURE_MARK}{name} {encode(key_id + signature)}\n"
    _note_bytes(note)
    return note


def verified_text(note: str, key: VerifierKey) -> str:
    """Return the text of a note, including its last newline, once a signature by the key has been verified.

    A second signature by the same key that fails makes the whole note fail, as the specification recommends.

    Raises:
        NoteError: the note is malformed, or has no signature or a wrong signature by this key.
    """
    signed, lines = split_note(note)
    for _, signature in signatures_by(key, lines):
        _verify(key, signature, signed)
    return signed


def signatures_by(key: VerifierKey, lines: Iterable[str]) -> list[tuple[str, bytes]]:
    """Return those of the signature lines that name a key, each with what stands behind the key id.

    Raises:
        NoteError: a line is malformed, or none names this key.
    """
    ours: list[tuple[str, bytes]] = []
    for line in lines:
        name, value = _parse_signature_line(line)
        if name == key.name and value.startswith(key.key_id):
            ours.append((line, value.removeprefix(key.key_id)))
    if not ours:
        raise NoteError(f"the note has no signature by {key.name}+{key.key_id.hex()}")
    return ours


def split_note(note: str) -> tuple[str, list[str]]:
    """Return the text of a note, including its last newline, and its signature lines; nothing is verified.

    Raises:
        NoteError: the note is malformed.
    """
    _note_bytes(note)
    # The text may contain empty lines itself: the last one separates.
    text, separator, lines = note.rpartition("\n\n")
    if not separator or not lines.endswith("\n"):
        raise NoteError("a note is a text, an empty line and signature lines, and ends in a newline")
    return f"{text}\n", lines.removesuffix("\n").split("\n")


def _verify(key: VerifierKey, signature: bytes, text: str) -> None:
    try:
        key.public_key.verify(signature, text.encode())
    except InvalidSignature as error:
        raise NoteError(f"the signature by {key.name}+{key.key_id.hex()} is wrong") from error


def _parse_signature_line(line: str) -> tuple[str, bytes]:
    """Return the key name, and the key id with the signature."""
    match = _SIGNATURE_LINE.fullmatch(line)
    value = decode(match["value"]) if match else None
    if match is None or value is None or len(value) <= _KEY_ID_SIZE:
        raise NoteError("a signature line is: em dash, space, key name, space, base64 of key id and signature")
    return match["name"], value


def _parse_body(text: str) -> Checkpoint:
    # Only U+000A ends a line; str.splitlines would also cut at other characters and let an origin hide lines.
    lines = text.removesuffix("\n").split("\n")
    if len(lines) < _CHECKPOINT_LINES or not all(lines):
        raise NoteError("a checkpoint is at least three lines, and none is empty")
    origin, size, encoded_root = lines[:_CHECKPOINT_LINES]
    if not _TREE_SIZE.fullmatch(size):
        raise NoteError("the tree size must be a decimal number without leading zeros, below 2^63")
    root = decode(encoded_root)
    if root is None:
        raise NoteError("the root hash is not canonical base64")
    return Checkpoint(origin, int(size), root)


def _key_id(name: str, public_key: Ed25519PublicKey, kind: bytes = ED25519) -> bytes:
    """Return the first 4 bytes of SHA-256(name || 0x0A || kind || public key), for a name that a key may have."""
    if not _KEY_NAME.fullmatch(name):
        raise VerifierKeyError("the name of a key must not be empty or contain spaces, control characters or +")
    return sha256(name.encode() + b"\n" + kind + public_key.public_bytes_raw()).digest()[:_KEY_ID_SIZE]


def _note_bytes(text: str) -> bytes:
    """Return the UTF-8 of a note or of its text, after refusing what no note may be."""
    # Asking for the characters first avoids work on what is too long anyway.
    if len(text) > MAX_NOTE_SIZE or len(text.encode(errors="surrogatepass")) > MAX_NOTE_SIZE:
        raise NoteError(f"the note is longer than {MAX_NOTE_SIZE} bytes")
    return _utf8(text)


def _utf8(text: str) -> bytes:
    """Return the UTF-8 of a text without control characters other than newline; a lone surrogate has none."""
    if _CONTROL_CHARACTER.search(text):
        raise NoteError("a note must not contain control characters other than newline")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise NoteError("a note must be valid Unicode") from error
