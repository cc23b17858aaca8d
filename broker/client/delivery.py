"""Secrets that come encrypted: a key for one delivery, and reading what was encrypted to it.

Compact JWE (RFC 7516) with ECDH-ES+A256KW and A256GCM (RFC 7518, 4.6 and 5.3), and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from broker.core import base64url
from broker.core.jwk import JWKError, parse_jwk, public_jwk, thumbprint
from broker.core.secret import Secret

ALG: Final = "ECDH-ES+A256KW"
ENC: Final = "A256GCM"

_KEY_BYTES: Final = 32
_IV_BYTES: Final = 12
_TAG_BYTES: Final = 16
_PURPOSE: Final = {"alg": ALG, "enc": ENC}
_HEADER: Final = frozenset({"alg", "enc", "kid", "cty", "typ", "epk"})


class DeliveryError(ValueError):
    """What came is not a secret that was encrypted to this key. The text says nothing of what is in it."""


class DeliveryKey:
    """An EC P-256 key for one delivery. Its private half never leaves the process, and is not shown by ``repr``."""

    def __init__(self) -> None:
        """Make a fresh key."""
        self._private_key = ec.generate_private_key(ec.SECP256R1())
        self.jwk: Final = public_jwk(self._private_key.public_key())
        """The public half, for the broker to encrypt to."""
        self._thumbprint = thumbprint(self.jwk)

    def open(self, jwe: str) -> Secret:
        """Return what was encrypted. Raises :class:`DeliveryError`."""
        try:
            header, *rest = jwe.split(".")
            encrypted_key, iv, ciphertext, tag = (base64url.decode(part) for part in rest)
            peer = self._sender(msgspec.json.decode(base64url.decode(header), type=dict[str, Any]))
            if (len(iv), len(tag)) != (_IV_BYTES, _TAG_BYTES):
                raise DeliveryError("the secret that came is not encrypted as agreed")
            content_key = aes_key_unwrap(self._agreed(peer), encrypted_key)
            if len(content_key) != _KEY_BYTES:
                raise DeliveryError("the secret that came is not encrypted as agreed")
            return Secret(AESGCM(content_key).decrypt(iv, ciphertext + tag, header.encode()))
        except (ValueError, InvalidUnwrap, InvalidTag) as error:
            if isinstance(error, DeliveryError):
                raise
            raise DeliveryError("the secret that came cannot be decrypted") from error

    def _sender(self, header: Mapping[str, Any]) -> ec.EllipticCurvePublicKey:
        """Return the sender's ephemeral key, once the header says exactly what was agreed."""
        agreed = {name: header.get(name) for name in _PURPOSE} == _PURPOSE and header.keys() <= _HEADER
        if not agreed or header.get("kid", self._thumbprint) != self._thumbprint:
            raise DeliveryError("the secret that came is not encrypted as agreed")
        try:
            key = parse_jwk(header.get("epk")).key
        except JWKError as error:
            raise DeliveryError("the secret that came has no usable key of its sender") from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise DeliveryError("the secret that came has a key of its sender on another curve")
        return key

    def _agreed(self, peer: ec.EllipticCurvePublicKey) -> bytes:
        """Return the key that both sides derive (RFC 7518, 4.6.2), with nobody named as party."""
        shared = self._private_key.exchange(ec.ECDH(), peer)
        alg = ALG.encode()
        nobody = (0).to_bytes(4, "big")
        told = len(alg).to_bytes(4, "big") + alg + nobody + nobody + (_KEY_BYTES * 8).to_bytes(4, "big")
        return ConcatKDFHash(SHA256(), _KEY_BYTES, told).derive(shared)

    def __repr__(self) -> str:
        """Name the key by its public thumbprint."""
        return f"DeliveryKey({self._thumbprint!r})"
