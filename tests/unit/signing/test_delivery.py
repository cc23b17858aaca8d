"""What is encrypted to an agent's key, the agent reads and nobody else; what is no such key is refused."""

from __future__ import annotations

import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from joserfc import jwe
from joserfc.errors import DecodeError
from joserfc.jwk import ECKey

from broker.core import base64url
from broker.core.errors import Code, Malformed
from broker.core.jwk import public_jwk, thumbprint
from broker.core.secret import Secret
from broker.signing.delivery import MAX_JWK, check_recipient, encrypted

# Its JWE is to move into another package, the very one that is judged here; until then it is a second judge.
with pytest.warns(DeprecationWarning, match="joserfc"):
    from authlib.jose import JsonWebEncryption

PASSWORD = "hunter2-Ünïcode"
DATA = Secret(json.dumps({"username": "v-agent", "password": PASSWORD}))
P256 = ec.generate_private_key(ec.SECP256R1())
PUBLIC = public_jwk(P256.public_key())
ALGORITHMS = ["ECDH-ES+A256KW", "A256GCM"]


def _opened(token: str, key: ec.EllipticCurvePrivateKey) -> bytes | None:
    return jwe.decrypt_compact(token, ECKey.import_key(key), algorithms=ALGORITHMS).plaintext


def _private_jwk(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    size = (key.curve.key_size + 7) // 8
    d = key.private_numbers().private_value.to_bytes(size, "big")
    return {**public_jwk(key.public_key()), "d": base64url.encode(d)}


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_two_implementations_read_it(curve: ec.EllipticCurve) -> None:
    """The holder of the private key gets the very bytes back, with whatever library."""
    key = ec.generate_private_key(curve)
    token = encrypted(DATA, public_jwk(key.public_key()))
    second: dict[str, Any] = JsonWebEncryption(algorithms=ALGORITHMS).deserialize_compact(token, _private_jwk(key))
    assert _opened(token, key) == second["payload"] == DATA.reveal()


def test_the_header_says_how_and_to_whom() -> None:
    """Algorithms, the thumbprint of the key, and that it is JSON; a fresh key of the sender's each time."""
    first, second = encrypted(DATA, PUBLIC), encrypted(DATA, PUBLIC)
    headers = [jwt.utils.base64url_decode(token.split(".")[0]) for token in (first, second)]
    told = [json.loads(header) for header in headers]
    ephemeral = [header.pop("epk") for header in told]
    expected = {"alg": "ECDH-ES+A256KW", "enc": "A256GCM", "kid": thumbprint(PUBLIC), "cty": "json"}
    assert told == [expected, expected]
    assert all("d" not in key for key in ephemeral)
    assert ephemeral[0] != ephemeral[1]
    assert first.count(".") == 4
    assert PASSWORD.encode() not in b"".join(base64url.decode(part) for part in first.split("."))


def test_another_key_reads_nothing() -> None:
    """Who has another private key, or changes a bit, gets an error and no plaintext."""
    token = encrypted(DATA, PUBLIC)
    with pytest.raises(DecodeError):
        _opened(token, ec.generate_private_key(ec.SECP256R1()))
    head, wrapped, nonce, text, tag = token.split(".")
    forged = ".".join((head, wrapped, nonce, ("A" if text[0] != "A" else "B") + text[1:], tag))
    with pytest.raises(DecodeError):
        _opened(forged, P256)


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"use": "enc"},
        {"alg": "ECDH-ES+A256KW"},
        {"kid": "mine"},
        {"key_ops": []},
        {"key_ops": ["deriveKey"], "ext": True},
    ],
)
def test_a_key_for_encryption_may_say_so(members: dict[str, Any]) -> None:
    """Whatever else it says, it is known by its thumbprint."""
    assert check_recipient({**PUBLIC, **members}) == thumbprint(PUBLIC)
    assert encrypted(DATA, {**PUBLIC, **members})


def _off_the_curve() -> dict[str, str]:
    y = bytearray(base64url.decode(PUBLIC["y"]))
    y[-1] ^= 1
    return {**PUBLIC, "y": base64url.encode(bytes(y))}


@pytest.mark.parametrize(
    "jwk",
    [
        None,
        "text",
        [PUBLIC],
        {},
        _private_jwk(P256),
        {**PUBLIC, "k": "c2VjcmV0"},
        {**PUBLIC, "use": "sig"},
        {**PUBLIC, "use": ["enc"]},
        {**PUBLIC, "alg": "ES256"},
        {**PUBLIC, "alg": "ECDH-ES"},
        {**PUBLIC, "key_ops": ["verify"]},
        {**PUBLIC, "key_ops": ["deriveKey", "sign"]},
        {**PUBLIC, "key_ops": "deriveKey"},
        {**PUBLIC, "key_ops": [{}]},
        {**PUBLIC, "kty": "RSA"},
        {**PUBLIC, "crv": "P-384"},
        {**PUBLIC, "crv": ["P-256"]},
        {**PUBLIC, "x": 7},
        {**PUBLIC, "x": PUBLIC["x"] + "="},
        {**PUBLIC, "x": base64url.encode(bytes(31))},
        {**PUBLIC, "x": base64url.encode(bytes(32)), "y": base64url.encode(bytes(32))},
        _off_the_curve(),
        {**PUBLIC, "x5c": ["A" * MAX_JWK]},
        {**PUBLIC, "note": b"bytes"},
        public_jwk(ec.generate_private_key(ec.SECP521R1()).public_key()),
        public_jwk(ed25519.Ed25519PrivateKey.generate().public_key()),
        public_jwk(rsa.generate_private_key(65537, 2048).public_key()),
        {"kty": "OKP", "crv": "X25519", "x": base64url.encode(bytes(range(32)))},
        {"kty": "oct", "k": "c2VjcmV0"},
    ],
)
def test_what_is_no_key_for_encryption_is_refused(jwk: object) -> None:
    """With a text that repeats neither the key nor the secret, and before anything is encrypted."""
    for refuse in (check_recipient, lambda key: encrypted(DATA, key)):
        with pytest.raises(Malformed) as refused:
            refuse(jwk)
        assert refused.value.code is Code.MALFORMED_REQUEST
        for value in (PASSWORD, PUBLIC["x"], _private_jwk(P256)["d"]):
            assert value not in f"{refused.value.public} {refused.value!r} {refused.value.__cause__!r}"


def test_nested_nonsense_is_refused() -> None:
    """A JWK so deep that writing it down would fail is no JWK."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(Malformed):
        check_recipient({**PUBLIC, "deep": deep})
