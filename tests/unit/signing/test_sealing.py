"""Sealing private keys at rest."""

from __future__ import annotations

import pickle

import pytest

from broker.core.secret import Secret
from broker.signing.sealing import MAX_PLAINTEXT, Sealer, SealingError, derived_key

MASTER = Secret(bytes(range(32)))
OTHER = Secret(bytes(range(1, 33)))
PLAINTEXT = b"canary-7c1f0e private key bytes"


def test_sealed_values_are_opened_by_the_same_key_and_context() -> None:
    """What was sealed comes back, also in another process that has the same master key."""
    sealed = Sealer(MASTER).seal(PLAINTEXT, "key kid-1")
    assert Sealer(Secret(bytes(range(32)))).open(sealed, "key kid-1") == PLAINTEXT


def test_sealing_twice_gives_different_bytes() -> None:
    """A nonce never repeats, and equal plaintexts cannot be recognised."""
    sealer = Sealer(MASTER)
    assert len({sealer.seal(PLAINTEXT, "key") for _ in range(100)}) == 100


def test_nothing_of_the_plaintext_or_the_master_key_shows() -> None:
    """The stored bytes hold neither the secret nor any part of the key."""
    sealed = Sealer(MASTER).seal(PLAINTEXT, "key")
    assert b"canary" not in sealed
    assert MASTER.reveal()[:8] not in sealed


def test_another_master_key_is_named_as_the_cause() -> None:
    """An operator who starts with the wrong master key is told just that."""
    sealed = Sealer(MASTER).seal(PLAINTEXT, "key")
    with pytest.raises(SealingError, match="another master key"):
        Sealer(OTHER).open(sealed, "key")


def test_every_changed_byte_is_noticed() -> None:
    """No byte of a sealed value can be changed: not the version, the key id, the nonce, the text or the tag."""
    sealer = Sealer(MASTER)
    sealed = sealer.seal(PLAINTEXT, "key")
    for place in range(len(sealed)):
        for flip in (0x01, 0x80):
            changed = bytearray(sealed)
            changed[place] ^= flip
            with pytest.raises(SealingError):
                sealer.open(bytes(changed), "key")


def test_every_truncation_and_extension_is_noticed() -> None:
    """A sealed value is whole or worthless."""
    sealer = Sealer(MASTER)
    sealed = sealer.seal(PLAINTEXT, "key")
    for length in range(len(sealed)):
        with pytest.raises(SealingError):
            sealer.open(sealed[:length], "key")
    with pytest.raises(SealingError):
        sealer.open(sealed + b"\x00", "key")
    with pytest.raises(SealingError, match="length"):
        sealer.open(sealed + bytes(MAX_PLAINTEXT), "key")


def test_a_sealed_value_cannot_take_the_place_of_another() -> None:
    """The context is part of what is authenticated."""
    sealer = Sealer(MASTER)
    with pytest.raises(SealingError, match="belongs to something else"):
        sealer.open(sealer.seal(PLAINTEXT, "key a"), "key b")


def test_what_cannot_be_sealed_safely_is_refused() -> None:
    """No context, too long, or a master key of the wrong length."""
    sealer = Sealer(MASTER)
    with pytest.raises(SealingError, match="what it is for"):
        sealer.seal(PLAINTEXT, "")
    with pytest.raises(SealingError, match="up to"):
        sealer.seal(bytes(MAX_PLAINTEXT + 1), "key")
    for length in (0, 16, 31, 33, 64):
        with pytest.raises(SealingError, match="32 bytes"):
            Sealer(Secret(bytes(length)))


def test_errors_and_representations_hold_no_secret() -> None:
    """Neither the sealer nor its errors show the key or the text, and the sealer cannot leave the process."""
    sealer = Sealer(MASTER)
    assert "object at" in repr(sealer)
    with pytest.raises(TypeError):
        pickle.dumps(sealer)
    with pytest.raises(SealingError) as caught:
        sealer.open(sealer.seal(PLAINTEXT, "a"), "b")
    assert "canary" not in str(caught.value)
    assert MASTER.reveal().hex() not in str(caught.value)


def test_derived_keys_differ_by_purpose_and_master_key() -> None:
    """Each use of the master key has its own key, the same one every time."""
    keys = [derived_key(master, purpose).reveal() for master in (MASTER, OTHER) for purpose in ("a", "b")]
    assert len(set(keys)) == 4
    assert derived_key(MASTER, "a") == derived_key(MASTER, "a")
    assert all(len(key) == 32 and key != MASTER.reveal() for key in keys)
