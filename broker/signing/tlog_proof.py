"""Receipts: that an entry is in the ledger, in a form that needs nobody's word but the signature in it.

A receipt is a C2SP *tlog-proof* (https://c2sp.org/tlog-proof): a first line that names the format, perhaps a line of
extra data, the index of the entry, an RFC 6962 inclusion proof of one hash a line, an empty line, and a signed
checkpoint as the log issued it. The entry itself is not in it; whoever verifies has that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from broker.core.merkle import HASH_SIZE, leaf_hash, verify_inclusion
from broker.ports import Proven
from broker.signing.checkpoint import MAX_NOTE_SIZE, Checkpoint, open_note
from broker.signing.strict_base64 import decode, encode

MAX_PROOF_SIZE: Final = 64 * 1024
"""Longest receipt that is read, in characters: room for a proof, the longest note, and some extra data."""

MAX_HASHES: Final = 63
"""Hashes in an inclusion proof, for a tree of less than 2^63 leaves."""

_FIRST_LINE: Final = "c2sp.org/tlog-proof@v1"
_EXTRA: Final = "extra "
_INDEX: Final = re.compile(r"index (?P<index>0|[1-9][0-9]{0,18})")


class TlogProofError(ValueError):
    """The text is not a receipt, or does not show what it is to show."""


@dataclass(frozen=True, slots=True)
class TlogProof:
    """The parts of a receipt. Nothing in it is verified; ``extra`` is authenticated by nobody, even when all else is.

    ``path`` goes from the leaf's sibling upwards; ``checkpoint`` is the signed note, verbatim.
    """

    index: int
    path: tuple[bytes, ...]
    checkpoint: str
    extra: bytes | None = None

    def text(self) -> str:
        """Return the receipt as it is stored and sent."""
        extra = [] if self.extra is None else [f"{_EXTRA}{encode(self.extra)}"]
        lines = [_FIRST_LINE, *extra, f"index {self.index}", *map(encode, self.path), "", self.checkpoint]
        return "\n".join(lines)


def write_receipt(proven: Proven) -> str:
    """Return the receipt of a proven entry."""
    return TlogProof(proven.record.seq, tuple(proven.path), proven.head.note).text()


def parse_tlog_proof(text: str) -> TlogProof:
    """Return the parts of a receipt. Raises :class:`TlogProofError` for anything that is not exactly one."""
    if len(text) > MAX_PROOF_SIZE:
        raise TlogProofError(f"the receipt is longer than {MAX_PROOF_SIZE} characters")
    head, separator, checkpoint = text.partition("\n\n")
    # Only U+000A ends a line.
    first, *lines = head.split("\n")
    if first != _FIRST_LINE or not separator:
        raise TlogProofError(f"a receipt begins with {_FIRST_LINE}, and has an empty line before its checkpoint")
    if not checkpoint or len(checkpoint) > MAX_NOTE_SIZE:
        raise TlogProofError(f"the checkpoint of a receipt has 1 to {MAX_NOTE_SIZE} characters")
    extra = _extra(lines.pop(0)) if lines and lines[0].startswith(_EXTRA) else None
    match = _INDEX.fullmatch(lines.pop(0)) if lines else None
    if match is None:
        raise TlogProofError("a receipt names the index of its entry: a decimal number without leading zeros")
    return TlogProof(int(match["index"]), _path(lines), checkpoint, extra)


def verify_receipt(text: str, entry: bytes, vkey: str) -> Checkpoint:
    """Return the checkpoint under which a receipt shows that the ledger has the entry, given as its stored bytes.

    Raises :class:`TlogProofError` or ``NoteError`` if it does not show that, and ``VerifierKeyError`` for a ``vkey``
    that is none.
    """
    proof = parse_tlog_proof(text)
    checkpoint = open_note(proof.checkpoint, vkey)
    if not verify_inclusion(leaf_hash(entry), proof.index, checkpoint.size, proof.path, checkpoint.root):
        raise TlogProofError("the receipt is not of this entry, or its hashes do not lead to the signed root")
    return checkpoint


def _extra(line: str) -> bytes:
    extra = decode(line.removeprefix(_EXTRA))
    if not extra:
        raise TlogProofError("the extra data of a receipt is not base64")
    return extra


def _path(lines: list[str]) -> tuple[bytes, ...]:
    if len(lines) > MAX_HASHES:
        raise TlogProofError(f"a receipt has {MAX_HASHES} hashes at most")
    path = [decode(line) for line in lines]
    if any(digest is None or len(digest) != HASH_SIZE for digest in path):
        raise TlogProofError(f"the proof of a receipt is one base64 of {HASH_SIZE} bytes a line")
    return tuple(digest for digest in path if digest is not None)
