"""Sealing: what the broker stores of its private keys is encrypted under a master key that is not in the store.

AES-256-GCM with a random 96-bit nonce. Each sealed value is bound to its context (what it is and whose it is), so that
one cannot be put in another's place. A sealed value is, in bytes::

    1        version, now 0x01
    8        which master key: the first bytes of an HKDF output, not of the key
    12       nonce
    n + 16   ciphertext and tag

The associated data is the first nine bytes followed by the UTF-8 of the context.
"""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from broker.core.secret import Secret

MASTER_KEY_SIZE: Final = 32
"""Bytes of a master key."""

MAX_PLAINTEXT: Final = 64 * 1024
"""Longest plaintext in bytes: private keys and small secrets, nothing else."""

_VERSION: Final = b"\x01"
_KEY_ID_SIZE: Final = 8
_NONCE_SIZE: Final = 12
_TAG_SIZE: Final = 16
_HEAD_SIZE: Final = len(_VERSION) + _KEY_ID_SIZE
_OVERHEAD: Final = _HEAD_SIZE + _NONCE_SIZE + _TAG_SIZE


class SealingError(ValueError):
    """A sealed value cannot be opened, or a value cannot be sealed; the text says why and holds no secret."""


class Sealer:
    """Seals and opens small values under one master key. Safe to use from several threads."""

    __slots__ = ("_cipher", "_head")

    def __init__(self, master_key: Secret) -> None:
        """Take a master key of 32 bytes. Raises :class:`SealingError` if it has another length."""
        self._cipher = AESGCM(derived_key(master_key, "sealing").reveal())
        self._head = _VERSION + derived_key(master_key, "master key id").reveal()[:_KEY_ID_SIZE]

    def seal(self, plaintext: bytes, context: str) -> bytes:
        """Return ``plaintext`` encrypted, to be opened again only by naming the same ``context``.

        Raises :class:`SealingError` if the context is empty or the plaintext longer than :data:`MAX_PLAINTEXT`.
        """
        if len(plaintext) > MAX_PLAINTEXT:
            raise SealingError(f"only values of up to {MAX_PLAINTEXT} bytes are sealed")
        nonce = os.urandom(_NONCE_SIZE)
        return self._head + nonce + self._cipher.encrypt(nonce, plaintext, self._bound_to(context))

    def open(self, sealed: bytes, context: str) -> bytes:
        """Return the plaintext of what :meth:`seal` made for the same context.

        Raises :class:`SealingError` if it was sealed under another master key, for another context, or was changed.
        """
        if len(sealed) < _OVERHEAD or len(sealed) > _OVERHEAD + MAX_PLAINTEXT:
            raise SealingError("this is not a sealed value: wrong length")
        if not sealed.startswith(_VERSION):
            raise SealingError("this is not a sealed value, or one of a later version of the broker")
        if not sealed.startswith(self._head):
            raise SealingError(
                "sealed under another master key"
                f" ({sealed[len(_VERSION) : _HEAD_SIZE].hex()}, the one in use is {self._head[len(_VERSION) :].hex()})"
            )
        nonce = sealed[_HEAD_SIZE : _HEAD_SIZE + _NONCE_SIZE]
        try:
            return self._cipher.decrypt(nonce, sealed[_HEAD_SIZE + _NONCE_SIZE :], self._bound_to(context))
        except InvalidTag as error:
            raise SealingError("the sealed value was changed, or belongs to something else") from error

    def _bound_to(self, context: str) -> bytes:
        if not context:
            raise SealingError("a sealed value must say what it is for")
        return self._head + context.encode()


def derived_key(master_key: Secret, purpose: str) -> Secret:
    """Return 32 bytes that belong to the master key and one purpose (HKDF-SHA-256, RFC 5869).

    Every use of the master key goes through here, so no two uses share a key and none reveals another's. Equal on
    every process that has the master key. Raises :class:`SealingError` if the master key is not 32 bytes.
    """
    material = master_key.reveal()
    if len(material) != MASTER_KEY_SIZE:
        raise SealingError(f"a master key has {MASTER_KEY_SIZE} bytes")
    info = b"credential-broker v1 " + purpose.encode()
    return Secret(HKDF(SHA256(), MASTER_KEY_SIZE, salt=None, info=info).derive(material))
