"""Delivery: a secret encrypted to the agent's own public key, so that nothing between the broker and it can read it.

Compact JWE (RFC 7516) with ECDH-ES+A256KW and A256GCM (RFC 7518, 4.6 and 5.3), the plaintext a JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from joserfc import jwe
from joserfc.jwk import ECKey

from broker.core.errors import Malformed
from broker.core.jwk import JWKError, parse_jwk
from broker.core.secret import Secret

ALG: Final = "ECDH-ES+A256KW"
ENC: Final = "A256GCM"
CURVES: Final = ("P-256", "P-384")
"""What keys are taken for encryption, and how they are used."""

MAX_JWK: Final = 4096
"""The longest public key, in characters of JSON."""

_DERIVING: Final = ("deriveKey", "deriveBits")
_PURPOSE: Final = frozenset({"use", "key_ops", "alg", "kid"})
"""Members that say what a key is for, and that are not those of a key for signatures here."""


def check_recipient(jwk: object) -> str:
    """Return the thumbprint (RFC 7638) of a public key that secrets can be encrypted to.

    Raises ``Malformed`` as :func:`encrypted` does, before there is a secret to lose.
    """
    return _recipient(jwk).thumbprint


def encrypted(data: Secret, jwk: object) -> str:
    """Return a secret, the UTF-8 of a JSON object, as a compact JWE that only the holder of the private key can read.

    The header names the key by its thumbprint (``kid``). Raises ``Malformed`` unless ``jwk`` is a public EC key on
    P-256 or P-384 for encryption: a private key, one for signatures and one for another algorithm are refused.
    """
    recipient = _recipient(jwk)
    header = {"alg": ALG, "enc": ENC, "kid": recipient.thumbprint, "cty": "json"}
    return jwe.encrypt_compact(header, data.reveal(), ECKey.import_key(recipient.key), algorithms=[ALG, ENC])


@dataclass(frozen=True, slots=True)
class _Recipient:
    key: EllipticCurvePublicKey
    thumbprint: str


def _recipient(jwk: object) -> _Recipient:
    if not isinstance(jwk, Mapping):
        raise Malformed("the key to encrypt to must be a JWK: an object")
    _check_size(jwk)
    if jwk.get("kty") != "EC" or jwk.get("crv") not in CURVES:
        raise Malformed(f"the key to encrypt to must be of kty EC, on {' or '.join(CURVES)}")
    if jwk.get("use", "enc") != "enc":
        raise Malformed("the key to encrypt to: use must be enc")
    if jwk.get("alg", ALG) != ALG:
        raise Malformed(f"the key to encrypt to: alg must be {ALG}")
    # A browser exports the public half of a key for ECDH with no operations at all.
    operations = jwk.get("key_ops", [])
    if not (isinstance(operations, list | tuple) and all(each in _DERIVING for each in operations)):
        raise Malformed("the key to encrypt to: key_ops must be deriveKey, deriveBits or none")
    try:
        parsed = parse_jwk({name: value for name, value in jwk.items() if name not in _PURPOSE})
    except JWKError as error:
        raise Malformed(f"the key to encrypt to: {error}") from error
    if not isinstance(parsed.key, EllipticCurvePublicKey):
        raise Malformed("the key to encrypt to must be an EC key")
    return _Recipient(parsed.key, parsed.thumbprint)


def _check_size(jwk: Mapping[Any, Any]) -> None:
    try:
        size = len(json.dumps(dict(jwk)))
    except (TypeError, ValueError, RecursionError) as error:
        raise Malformed("the key to encrypt to must be a JWK: an object of JSON values") from error
    if size > MAX_JWK:
        raise Malformed(f"the key to encrypt to is longer than {MAX_JWK} characters")
