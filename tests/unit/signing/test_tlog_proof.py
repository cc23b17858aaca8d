"""What receipts must say, and what must be refused before anything in them is believed."""

from __future__ import annotations

import base64
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from broker.core.merkle import Frontier, inclusion_proof, leaf_hash, root_of
from broker.ports import Proven, Record, SignedHead
from broker.signing.checkpoint import MAX_NOTE_SIZE, Checkpoint, NoteError, VerifierKeyError, sign_checkpoint
from broker.signing.checkpoint import verifier_key as vkey_of
from broker.signing.tlog_proof import (
    MAX_HASHES,
    MAX_PROOF_SIZE,
    TlogProof,
    TlogProofError,
    parse_tlog_proof,
    verify_receipt,
    write_receipt,
)

NAME = "broker.example/audit"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VKEY = vkey_of(NAME, KEY.public_key())
ENTRIES = [b'{"n":%d}' % number for number in range(700)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
ROOT = Frontier().append(LEAVES).root()
HEAD = SignedHead(len(LEAVES), ROOT, sign_checkpoint(Checkpoint(NAME, len(LEAVES), ROOT), NAME, KEY))


def receipt(seq: int) -> str:
    """Return the receipt of an entry."""
    path = inclusion_proof(lambda start, end: root_of(LEAVES[start:end]), seq, len(LEAVES))
    return write_receipt(Proven(Record(seq, ENTRIES[seq], {}), path, HEAD))


GOOD = receipt(300)

# The cases of the tests of the implementation github.com/transparency-dev/formats, proof/tlog_proof_test.go.
HASH_1, HASH_2 = (sha256(text).digest() for text in (b"hash1", b"hash2"))
TEXT_1, TEXT_2 = (base64.b64encode(digest).decode() for digest in (HASH_1, HASH_2))
PUBLISHED = {
    f"c2sp.org/tlog-proof@v1\nindex 5\n{TEXT_1}\n{TEXT_2}\n\ntest checkpoint\n": TlogProof(
        5, (HASH_1, HASH_2), "test checkpoint\n"
    ),
    f"c2sp.org/tlog-proof@v1\nextra {base64.b64encode(b'extra information').decode()}\nindex 10\n{TEXT_1}\n\n"
    "checkpoint data\n": TlogProof(10, (HASH_1,), "checkpoint data\n", b"extra information"),
    "c2sp.org/tlog-proof@v1\nindex 0\n\ncheckpoint\n": TlogProof(0, (), "checkpoint\n"),
}
PUBLISHED_BAD = (
    "wrong-header\nindex 0\n\ncheckpoint\n",
    "c2sp.org/tlog-proof@v1\nextra !!notbase64!!\nindex 0\n\ncheckpoint\n",
    "c2sp.org/tlog-proof@v1\n\n\ncheckpoint\n",
    "c2sp.org/tlog-proof@v1\nindex notanumber\n\ncheckpoint\n",
    "c2sp.org/tlog-proof@v1\nindex -5\n\ncheckpoint\n",
    "c2sp.org/tlog-proof@v1\nindex 0\n!!notbase64!!\n\ncheckpoint\n",
    f"c2sp.org/tlog-proof@v1\nindex 0\n{base64.b64encode(bytes(64)).decode()}\n\ncheckpoint\n",
    "c2sp.org/tlog-proof@v1\nindex 0\n" + "a" * 65 * 1024 + "\n",
)


@pytest.mark.parametrize(("text", "proof"), PUBLISHED.items())
def test_published_proofs(text: str, proof: TlogProof) -> None:
    """Another implementation's texts are read as it means them, and written like that."""
    assert parse_tlog_proof(text) == proof
    assert proof.text() == text


@pytest.mark.parametrize("text", PUBLISHED_BAD)
def test_published_malformed_proofs(text: str) -> None:
    """What another implementation refuses is refused."""
    with pytest.raises(TlogProofError):
        parse_tlog_proof(text)


@pytest.mark.parametrize("seq", [0, 255, 256, 300, 512, 699])
def test_a_receipt_verifies(seq: int) -> None:
    """With nothing but itself, the entry and the key."""
    head = verify_receipt(receipt(seq), ENTRIES[seq], VKEY)
    assert (head.origin, head.size, head.root) == (NAME, 700, ROOT)


def test_a_receipt_is_for_one_entry() -> None:
    """Not for another one, not for a part of it, not at another place, not under another key or root."""
    for other in (ENTRIES[301], ENTRIES[300][:-1], ENTRIES[300] + b" ", b""):
        with pytest.raises(TlogProofError, match="not of this entry"):
            verify_receipt(GOOD, other, VKEY)
    with pytest.raises(TlogProofError, match="not of this entry"):
        verify_receipt(GOOD.replace("index 300", "index 301"), ENTRIES[300], VKEY)
    with pytest.raises(NoteError, match="no signature"):
        verify_receipt(GOOD, ENTRIES[300], vkey_of(NAME, Ed25519PrivateKey.generate().public_key()))
    with pytest.raises(NoteError, match="is wrong"):
        verify_receipt(GOOD.replace("\n700\n", "\n701\n"), ENTRIES[300], VKEY)
    with pytest.raises(VerifierKeyError):
        verify_receipt(GOOD, ENTRIES[300], "no key")


def test_an_inner_node_is_no_entry() -> None:
    """Two hashes that stand side by side in the tree hash to their parent, but not as an entry does."""
    proof = parse_tlog_proof(receipt(300))
    upper = TlogProof(150, proof.path[1:], proof.checkpoint).text()
    with pytest.raises(TlogProofError, match="not of this entry"):
        verify_receipt(upper, LEAVES[300] + LEAVES[301], VKEY)


def test_extra_data_changes_nothing() -> None:
    """It may be there; nobody vouches for it."""
    extra = base64.b64encode(b"anything").decode()
    text = GOOD.replace("index 300", f"extra {extra}\nindex 300")
    assert parse_tlog_proof(text).extra == b"anything"
    assert verify_receipt(text, ENTRIES[300], VKEY).size == 700


LINES = GOOD.split("\n")


@pytest.mark.parametrize(
    "text",
    {
        "nothing": "",
        "first line only": LINES[0],
        "other version": GOOD.replace("@v1", "@v2"),
        "carriage returns": GOOD.replace("\n", "\r\n"),
        "space before": " " + GOOD,
        "byte order mark": "\ufeff" + GOOD,
        "no index": GOOD.replace("index 300\n", ""),
        "two indexes": GOOD.replace("index 300\n", "index 300\nindex 300\n"),
        "leading zero": GOOD.replace("index 300", "index 0300"),
        "plus": GOOD.replace("index 300", "index +300"),
        "underscore": GOOD.replace("index 300", "index 3_00"),
        "space behind": GOOD.replace("index 300", "index 300 "),
        "other digits": GOOD.replace("index 300", "index \u0663\u0660\u0660"),
        "very large": GOOD.replace("index 300", "index 3" + "0" * 20),
        "extra without data": GOOD.replace("index 300", "extra \nindex 300"),
        "extra below the index": GOOD.replace("index 300", "index 300\nextra AAAA"),
        "two extras": GOOD.replace("index 300", "extra AAAA\nextra AAAA\nindex 300"),
        "url-safe": GOOD.replace(LINES[2], "-" * 43 + "="),
        "without padding": GOOD.replace(LINES[2], LINES[2].rstrip("=")),
        "loose last bits": GOOD.replace(LINES[2], "A" * 42 + "B="),
        "short hash": GOOD.replace(LINES[2], base64.b64encode(bytes(31)).decode()),
        "too many hashes": GOOD.replace(LINES[2], "\n".join([LINES[2]] * (MAX_HASHES + 1))),
        "no empty line": GOOD.replace("\n\n", "\n"),
        "no checkpoint": GOOD.partition("\n\n")[0] + "\n\n",
        "long checkpoint": GOOD + "x" * MAX_NOTE_SIZE,
        "too long": GOOD.replace("index 300", f"extra {'A' * MAX_PROOF_SIZE}\nindex 300"),
        "lone surrogate": GOOD.replace("index 300", "extra \ud800\nindex 300"),
    }.items(),
    ids=lambda case: case[0],
)
def test_what_is_no_receipt(text: tuple[str, str]) -> None:
    """Any other text is refused by name, never with a stray exception."""
    with pytest.raises(TlogProofError):
        parse_tlog_proof(text[1])


@given(st.integers(0, len(GOOD) - 1), st.characters(codec="utf-8"))
def test_any_other_character_breaks_it(place: int, character: str) -> None:
    """No character of a receipt is without meaning."""
    changed = GOOD[:place] + character + GOOD[place + 1 :]
    if changed == GOOD:
        return
    with pytest.raises((TlogProofError, NoteError)):
        verify_receipt(changed, ENTRIES[300], VKEY)


@given(st.text(max_size=200))
def test_arbitrary_text_is_refused(text: str) -> None:
    """Behind a good beginning as well."""
    for candidate in (text, f"c2sp.org/tlog-proof@v1\n{text}", f"c2sp.org/tlog-proof@v1\nindex 1\n\n{text}"):
        with pytest.raises((TlogProofError, NoteError)):
            verify_receipt(candidate, b"{}", VKEY)
