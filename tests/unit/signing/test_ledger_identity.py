"""The name and key of the ledger's checkpoints."""

from __future__ import annotations

import hashlib

import pytest

from broker.core.errors import Unavailable
from broker.core.secret import Secret
from broker.signing.checkpoint import NoteError, open_note
from broker.signing.keyring import KeyRing
from broker.signing.ledger_identity import checkpoint_signer, origin, verifier_key
from broker.signing.sealing import Sealer

NOW = 1_800_000_000.0
ISSUER = "https://broker.example"
ROOT = hashlib.sha256(b"root").digest()


class Noon:
    """A clock that stands still."""

    def now(self) -> float:
        return NOW


def _ring(*uses: str) -> KeyRing:
    ring = KeyRing((), Sealer(Secret(bytes(range(32)))), longest_token=900)
    ring.replace([ring.generate("EdDSA", use, NOW, NOW) for use in uses])
    return ring


def test_a_checkpoint_opens_with_the_published_verifier_key() -> None:
    """Size and root come back under the ledger's name."""
    ring = _ring("checkpoint")
    note = checkpoint_signer(ring, Noon(), issuer=ISSUER)(991, ROOT)
    vkey = verifier_key(ring, NOW, issuer=ISSUER)
    checkpoint = open_note(note, vkey)
    assert (checkpoint.origin, checkpoint.size, checkpoint.root) == ("broker.example/audit", 991, ROOT)
    assert vkey.startswith("broker.example/audit+")


def test_the_verifier_key_of_another_broker_does_not_open_it() -> None:
    """Another key, or the same key under another name."""
    ring = _ring("checkpoint")
    note = checkpoint_signer(ring, Noon(), issuer=ISSUER)(991, ROOT)
    others = (
        verifier_key(_ring("checkpoint"), NOW, issuer=ISSUER),
        verifier_key(ring, NOW, issuer="https://other.example"),
    )
    for vkey in others:
        with pytest.raises(NoteError):
            open_note(note, vkey)


def test_the_name_is_that_of_the_issuer() -> None:
    """Without the scheme, with a development port."""
    assert origin("https://broker.example") == "broker.example/audit"
    assert origin("http://127.0.0.1:8640") == "127.0.0.1:8640/audit"


def test_a_token_key_never_signs_checkpoints() -> None:
    """Even if it is of the right algorithm: without a key for the purpose there is no checkpoint."""
    ring = _ring("token")
    with pytest.raises(Unavailable):
        checkpoint_signer(ring, Noon(), issuer=ISSUER)(1, ROOT)
    with pytest.raises(Unavailable):
        verifier_key(ring, NOW, issuer=ISSUER)


def test_the_checkpoint_key_is_in_no_jwks() -> None:
    """It verifies no token."""
    ring = _ring("checkpoint", "token")
    assert len(ring.jwks(NOW)["keys"]) == 1
    assert ring.signer(NOW, use="checkpoint", alg="EdDSA").kid not in ring.verification_keys(NOW)
