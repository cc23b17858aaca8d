"""Public keys as JWK and JWK sets (RFC 7517, RFC 7518, RFC 8037), and their thumbprints (RFC 7638)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurve,
    EllipticCurvePublicKey,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from broker.core import base64url
from broker.core.strict_json import JSONError, read_json_object

PublicKey = EllipticCurvePublicKey | RSAPublicKey | Ed25519PublicKey

MAX_KEYS: Final = 100
"""Keys in one set, at most."""

MAX_CLIENT_KEYS: Final = 20
"""Keys in the set of one client, at most."""

MAX_KID: Final = 512

_RSA_BITS: Final = range(2048, 8192 + 1)
_RSA_EXPONENTS: Final = range(3, 2**32, 2)
_ED25519_SIZE: Final = 32
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_THUMBPRINT_MEMBERS: Final = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}
_CURVES: Final[Mapping[str, EllipticCurve]] = {"P-256": SECP256R1(), "P-384": SECP384R1(), "P-521": SECP521R1()}
_CURVE_NAMES: Final = {curve.name: name for name, curve in _CURVES.items()}
_EC_ALGORITHMS: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_RSA_ALGORITHMS: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_ED25519_ALGORITHMS: Final = frozenset({"EdDSA", "Ed25519"})  # the second is the RFC 9864 name of the first


class JWKError(ValueError):
    """The value is not a public key, or key set, that can be used here; the text says why, without repeating it."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key that verifies signatures. ``thumbprint`` is RFC 7638; ``alg`` the one algorithm it is for, if told.

    ``algorithms`` are those that the key can verify: they fit its type and curve, and ``alg``.
    """

    kid: str | None
    alg: str | None
    key: PublicKey
    thumbprint: str
    algorithms: frozenset[str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Derive the algorithms, so that no token is ever verified with one that the key is not for."""
        fitting = _fitting(self.key)
        if self.alg is not None:
            alike = _ED25519_ALGORITHMS if self.alg in _ED25519_ALGORITHMS else {self.alg}
            fitting &= alike
        object.__setattr__(self, "algorithms", fitting)


class KeySet:
    """The keys of one issuer. A key of one set never verifies a token of another issuer.

    A token names its key by ``kid``. In the set of a client (``kid_optional``), a token without ``kid`` means the only
    key if there is exactly one, and a key answers to its thumbprint besides its ``kid``.
    """

    __slots__ = ("_by_kid", "_keys", "_kid_optional", "skipped")

    def __init__(self, keys: Iterable[VerificationKey], *, kid_optional: bool = False, skipped: int = 0) -> None:
        """``skipped`` is how many members of the document were left out, since they are no usable keys."""
        self._keys = tuple(keys)
        self._kid_optional = kid_optional
        self.skipped = skipped
        self._by_kid: dict[str, list[VerificationKey]] = {}
        for key in self._keys:
            names = {key.kid, key.thumbprint} if kid_optional else {key.kid}
            for name in names - {None}:
                self._by_kid.setdefault(str(name), []).append(key)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[VerificationKey]:
        return iter(self._keys)

    def __contains__(self, kid: object) -> bool:
        """Whether there is a key of this id."""
        return kid in self._by_kid

    def find(self, kid: str | None, alg: str) -> VerificationKey | None:
        """Return the key that a token names, or None if there is none or more than one.

        Keys of the same id are told apart by ``alg``. The key that is returned need not be fit for ``alg``.
        """
        if kid is None:
            return self._keys[0] if self._kid_optional and len(self._keys) == 1 else None
        named = self._by_kid.get(kid, ())
        if len(named) > 1:
            named = [key for key in named if alg in key.algorithms]
        return named[0] if len(named) == 1 else None


def parse_jwk(jwk: object) -> VerificationKey:
    """Read one public key. Raises :class:`JWKError`, also for a private or shared key: those must not travel."""
    if not isinstance(jwk, Mapping):
        raise JWKError("not a JWK: must be an object")
    if not _PRIVATE.isdisjoint(jwk):
        raise JWKError("holds a private or shared key; only public keys may be given")
    if jwk.get("use", "sig") != "sig":
        raise JWKError("use: the key is not for signatures")
    return _parse(jwk)


def parse_jwks(document: bytes | str | Mapping[str, Any], *, use: str = "sig", limit: int = MAX_KEYS) -> KeySet:
    """Read a key set, leaving out what is not a usable public key for signatures.

    With the ``use`` of another purpose (``jwt-svid``), only keys that say so are taken. A key that is published with
    its private part is left out: anybody could sign with it. Raises :class:`JWKError` if the document is no key set.
    """
    keys = _members(document)
    if len(keys) > limit:
        raise JWKError(f"more than {limit} keys")
    usable = [key for key in (_usable(member, use) for member in keys) if key is not None]
    return KeySet(usable, skipped=len(keys) - len(usable))


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """Return the RFC 7638 SHA-256 thumbprint of a JWK. Raises :class:`JWKError` if a needed member is missing."""
    kty = jwk.get("kty")
    needed = _THUMBPRINT_MEMBERS.get(kty) if isinstance(kty, str) else None
    if needed is None:
        raise JWKError("kty: must be EC, RSA or OKP")
    canonical = json.dumps({name: _text(jwk, name) for name in needed}, separators=(",", ":"))
    return base64url.encode(hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).digest())


def public_jwk(key: PublicKey) -> dict[str, str]:
    """Return a public key as a JWK, in canonical form, with no more than what its thumbprint is made of."""
    if isinstance(key, EllipticCurvePublicKey):
        curve = _CURVE_NAMES.get(key.curve.name)
        if curve is None:
            raise JWKError("the curve must be P-256, P-384 or P-521")
        size, numbers = _coordinate_size(key.curve), key.public_numbers()
        x, y = (base64url.encode(number.to_bytes(size, "big")) for number in (numbers.x, numbers.y))
        return {"crv": curve, "kty": "EC", "x": x, "y": y}
    if isinstance(key, RSAPublicKey):
        public = key.public_numbers()
        return {"e": _encode_number(public.e), "kty": "RSA", "n": _encode_number(public.n)}
    if isinstance(key, Ed25519PublicKey):
        x = base64url.encode(key.public_bytes(Encoding.Raw, PublicFormat.Raw))
        return {"crv": "Ed25519", "kty": "OKP", "x": x}
    raise JWKError("the key must be an EC, RSA or Ed25519 public key")


def _members(document: bytes | str | Mapping[str, Any]) -> list[object]:
    try:
        jwks = document if isinstance(document, Mapping) else read_json_object(document)
    except JSONError as error:
        raise JWKError(f"not a JWK set: {error}") from error
    keys = jwks.get("keys")
    if not isinstance(keys, list | tuple):
        raise JWKError("not a JWK set: keys must be a list")
    return list(keys)


def _usable(jwk: object, use: str) -> VerificationKey | None:
    if not isinstance(jwk, Mapping) or jwk.get("use", "sig") != use or not _PRIVATE.isdisjoint(jwk):
        return None
    try:
        return _parse(jwk)
    except JWKError:
        return None


def _parse(jwk: Mapping[Any, Any]) -> VerificationKey:
    operations = jwk.get("key_ops")
    if operations is not None and not (isinstance(operations, list | tuple) and "verify" in operations):
        raise JWKError("key_ops: the key is not for verifying signatures")
    kid = None if jwk.get("kid") is None else _text(jwk, "kid", MAX_KID)
    alg = None if jwk.get("alg") is None else _text(jwk, "alg")
    key = _public_key(jwk)
    parsed = VerificationKey(kid, alg, key, thumbprint(public_jwk(key)))
    if not parsed.algorithms:
        raise JWKError("alg: is not one that a key of this type can have here")
    return parsed


def _public_key(jwk: Mapping[Any, Any]) -> PublicKey:
    try:
        match jwk.get("kty"):
            case "EC":
                return _ec_key(jwk)
            case "RSA":
                return _rsa_key(jwk)
            case "OKP" if jwk.get("crv") == "Ed25519":
                return Ed25519PublicKey.from_public_bytes(_bytes(jwk, "x", _ED25519_SIZE))
    except (ValueError, UnsupportedAlgorithm) as error:
        if isinstance(error, JWKError):
            raise
        raise JWKError("the numbers are not those of a public key") from error
    raise JWKError("the key must be RSA, EC or Ed25519")


def _ec_key(jwk: Mapping[Any, Any]) -> EllipticCurvePublicKey:
    name = jwk.get("crv")
    curve = _CURVES.get(name) if isinstance(name, str) else None
    if curve is None:
        raise JWKError("crv: must be P-256, P-384 or P-521")
    x, y = (int.from_bytes(_bytes(jwk, axis, _coordinate_size(curve)), "big") for axis in ("x", "y"))
    return EllipticCurvePublicNumbers(x, y, curve).public_key()  # refuses a point that is not on the curve


def _rsa_key(jwk: Mapping[Any, Any]) -> RSAPublicKey:
    n, e = (int.from_bytes(_bytes(jwk, name), "big") for name in ("n", "e"))
    if n.bit_length() not in _RSA_BITS:
        raise JWKError(f"n: an RSA key must have {_RSA_BITS[0]} to {_RSA_BITS[-1]} bits")
    if n % 2 == 0:
        raise JWKError("n: is not the modulus of a key")
    if e not in _RSA_EXPONENTS:
        raise JWKError("e: must be odd, at least 3 and below 2^32")
    return RSAPublicNumbers(e, n).public_key()


def _fitting(key: PublicKey) -> frozenset[str]:
    if isinstance(key, RSAPublicKey):
        return _RSA_ALGORITHMS
    if isinstance(key, Ed25519PublicKey):
        return _ED25519_ALGORITHMS
    alg = _EC_ALGORITHMS.get(key.curve.name)
    return frozenset() if alg is None else frozenset({alg})


def _coordinate_size(curve: EllipticCurve) -> int:
    return (curve.key_size + 7) // 8


def _encode_number(number: int) -> str:
    return base64url.encode(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def _text(jwk: Mapping[Any, Any], name: str, limit: int = 2048) -> str:
    value = jwk.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= limit:
        raise JWKError(f"{name}: must be text of 1 to {limit} characters")
    return value


def _bytes(jwk: Mapping[Any, Any], name: str, size: int | None = None) -> bytes:
    try:
        data = base64url.decode(_text(jwk, name))
    except JWKError:
        raise
    except ValueError as error:
        raise JWKError(f"{name}: must be base64url without padding") from error
    if size is not None and len(data) != size:
        raise JWKError(f"{name}: must be {size} bytes")
    return data
