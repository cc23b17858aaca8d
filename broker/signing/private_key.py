"""One private key of the broker: made, sealed for the store, opened again, and used to sign JWTs (RFC 7515).

What is published about a key is derived from the private key that was opened, never taken from its stored row: whoever
can write to the store, but lacks the master key, cannot make the broker vouch for a key of theirs.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Final, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from broker.core.change import StoredKey
from broker.core.jwk import public_jwk, thumbprint
from broker.signing.sealing import Sealer, SealingError

PrivateKey = EllipticCurvePrivateKey | RSAPrivateKey | Ed25519PrivateKey
PublicKey = EllipticCurvePublicKey | RSAPublicKey | Ed25519PublicKey

ES256: Final = "ES256"
RS256: Final = "RS256"
EDDSA: Final = "EdDSA"
ALGORITHMS: Final = (ES256, RS256, EDDSA)
"""What the broker can sign with (RFC 7518, RFC 8037)."""

RSA_BITS: Final = 2048  # what every verifier takes; those who need RS256 at all are the old and the strict ones
_COORDINATE: Final = 32
_ES256: Final = ECDSA(SHA256())
_RS256: Final = PKCS1v15()
_SHA256: Final = SHA256()


class SigningKey:
    """A private key that is open for signing. It cannot be printed, copied or pickled.

    ``kid`` is the RFC 7638 thumbprint, ``alg`` the one algorithm that the key is used with, ``public`` the other half.
    """

    __slots__ = ("_headers", "_private", "alg", "kid", "public")

    def __init__(self, private: PrivateKey, alg: str) -> None:
        """Raises :class:`SealingError` if the key is of another type than ``alg`` needs."""
        if not _fits(private, alg):
            raise SealingError(f"the private key is not one for {alg}")
        self._private = private
        self.alg = alg
        self.public: PublicKey = private.public_key()
        self.kid = thumbprint(public_jwk(self.public))
        self._headers: dict[str, bytes] = {}

    def sign(self, data: bytes) -> bytes:
        """Return the signature over ``data`` in the form that JWS wants (for ES256 the raw r and s, RFC 7518 3.4)."""
        private = self._private
        if isinstance(private, EllipticCurvePrivateKey):
            r, s = decode_dss_signature(private.sign(data, _ES256))
            return r.to_bytes(_COORDINATE, "big") + s.to_bytes(_COORDINATE, "big")
        if isinstance(private, RSAPrivateKey):
            return private.sign(data, _RS256, _SHA256)
        return private.sign(data)

    def jwt(self, typ: str, payload: bytes) -> str:
        """Return the JWT with this payload (the UTF-8 of a JSON object) and header ``typ``, ``alg``, ``kid``."""
        header = self._headers.get(typ)
        if header is None:
            header = self._headers[typ] = self._header(typ)
        data = header + _base64url(payload)
        return (data + b"." + _base64url(self.sign(data))).decode("ascii")

    def published(self) -> dict[str, Any]:
        """Return the member of a JWKS for this key (RFC 7517)."""
        return {**public_jwk(self.public), "kid": self.kid, "use": "sig", "alg": self.alg}

    def ed25519(self) -> Ed25519PrivateKey:
        """Return the key itself, to sign a note with. Raises :class:`SealingError` if it is no Ed25519 key."""
        if not isinstance(self._private, Ed25519PrivateKey):
            raise SealingError("the private key is not one for Ed25519")
        return self._private

    def sealed(self, sealer: Sealer, use: str) -> bytes:
        """Return the private key as PKCS #8, encrypted for the store."""
        return sealer.seal(
            self._private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
            _context(use, self.alg, self.kid),
        )

    def _header(self, typ: str) -> bytes:
        header = {"typ": typ, "alg": self.alg, "kid": self.kid}
        return _base64url(json.dumps(header, separators=(",", ":")).encode()) + b"."

    def __repr__(self) -> str:
        return f"SigningKey({self.alg}, {self.kid})"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied into another process."""
        raise TypeError("a SigningKey cannot be pickled")


def new_key(alg: str) -> SigningKey:
    """Make a new random key. Blocks for up to about a second for RS256. Raises ``ValueError`` for another ``alg``."""
    if alg == ES256:
        return SigningKey(generate_private_key(SECP256R1()), alg)
    if alg == RS256:
        return SigningKey(generate_rsa_key(public_exponent=65537, key_size=RSA_BITS), alg)
    if alg == EDDSA:
        return SigningKey(Ed25519PrivateKey.generate(), alg)
    raise ValueError(f"the broker signs with {', '.join(ALGORITHMS)} only")


def open_key(row: StoredKey, sealer: Sealer) -> SigningKey:
    """Return the private key in a stored row.

    Raises :class:`SealingError`, naming the key, if the row was not sealed under this master key as what it says it is.
    """
    try:
        key = _parsed(sealer.open(row.sealed, _context(row.use, row.alg, row.kid)), row.alg)
    except (ValueError, UnsupportedAlgorithm) as error:
        why = str(error) if isinstance(error, SealingError) else "not a private key"
        raise SealingError(f"key {row.kid}: {why}") from error
    if key.kid != row.kid:
        raise SealingError(f"key {row.kid}: the private key belongs to another id")
    return key


def _parsed(pkcs8: bytes, alg: str) -> SigningKey:
    private = load_der_private_key(pkcs8, None)
    if not isinstance(private, EllipticCurvePrivateKey | RSAPrivateKey | Ed25519PrivateKey):
        raise SealingError("the private key is of a type that the broker does not use")
    return SigningKey(private, alg)


def _context(use: str, alg: str, kid: str) -> str:
    return f"private key {use} {alg} {kid}"


def _fits(private: PrivateKey, alg: str) -> bool:
    if isinstance(private, EllipticCurvePrivateKey):
        return alg == ES256 and isinstance(private.curve, SECP256R1)
    return alg == (RS256 if isinstance(private, RSAPrivateKey) else EDDSA)


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
