"""Public keys from outside: which are taken, which are not, and what they are called."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from joserfc.jwk import ECKey, OKPKey, RSAKey

from broker.core.jwk import JWKError, KeySet, VerificationKey, parse_jwk, parse_jwks, public_jwk, thumbprint
from tests.support.identity_provider import private_key

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "jose.json").read_text())
EC_KEY = private_key("ES256")
EC_JWK = public_jwk(EC_KEY.public_key())
RSA_JWK = public_jwk(private_key("RS256", "jwk").public_key())
ED_JWK = public_jwk(private_key("EdDSA").public_key())


def _number(value: int) -> str:
    data = value.to_bytes((value.bit_length() + 7) // 8 or 1, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.parametrize("vector", VECTORS["thumbprints"], ids=lambda vector: vector["source"])
def test_thumbprints_are_those_of_the_rfcs(vector: dict[str, Any]) -> None:
    """RFC 7638: only the members that make the key count, in one canonical form."""
    assert thumbprint(vector["jwk"]) == vector["thumbprint"]
    assert parse_jwk(vector["jwk"]).thumbprint == vector["thumbprint"]


@pytest.mark.parametrize(
    ("jwk", "other"), [(EC_JWK, ECKey), (RSA_JWK, RSAKey), (ED_JWK, OKPKey)], ids=["EC", "RSA", "OKP"]
)
def test_another_implementation_agrees(jwk: dict[str, Any], other: Any) -> None:  # noqa: ANN401 - three classes
    """What we write as a JWK is the same key, under the same thumbprint, elsewhere."""
    assert other.import_key(jwk).thumbprint() == thumbprint(jwk)
    assert public_jwk(parse_jwk(jwk).key) == jwk


@pytest.mark.parametrize(
    ("jwk", "algorithms"),
    [
        (EC_JWK, {"ES256"}),
        (public_jwk(private_key("ES384").public_key()), {"ES384"}),
        (public_jwk(private_key("ES512").public_key()), {"ES512"}),
        (RSA_JWK, {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
        ({**RSA_JWK, "alg": "RS256"}, {"RS256"}),
        (ED_JWK, {"EdDSA", "Ed25519"}),
        ({**ED_JWK, "alg": "EdDSA"}, {"EdDSA", "Ed25519"}),
        ({**ED_JWK, "alg": "Ed25519"}, {"EdDSA", "Ed25519"}),
    ],
)
def test_a_key_is_for_algorithms_of_its_kind(jwk: dict[str, Any], algorithms: set[str]) -> None:
    """Type and curve decide, and the declared algorithm narrows."""
    assert parse_jwk(jwk).algorithms == algorithms


BAD_KEYS: dict[str, object] = {
    "no object": [EC_JWK],
    "a text": "key",
    "no kty": {"crv": "P-256", "x": EC_JWK["x"], "y": EC_JWK["y"]},
    "kty of a list": {**EC_JWK, "kty": ["EC"]},
    "shared secret": {"kty": "oct", "k": "c2VjcmV0"},
    "oct without k": {"kty": "oct"},
    "private EC key": {**EC_JWK, "d": EC_JWK["x"]},
    "private RSA key": {**RSA_JWK, "d": "AQAB"},
    "RSA prime": {**RSA_JWK, "p": "AQAB"},
    "RSA other primes": {**RSA_JWK, "oth": []},
    "for encryption": {**EC_JWK, "use": "enc"},
    "use of a list": {**EC_JWK, "use": ["sig"]},
    "key_ops without verify": {**EC_JWK, "key_ops": ["encrypt"]},
    "key_ops of a text": {**EC_JWK, "key_ops": "verify"},
    "curve of another coin": {**EC_JWK, "crv": "secp256k1"},
    "curve unknown": {**EC_JWK, "crv": {}},
    "point off the curve": {**EC_JWK, "y": EC_JWK["x"]},
    "coordinate too short": {**EC_JWK, "x": EC_JWK["x"][:-4]},
    "coordinate with padding": {**EC_JWK, "x": EC_JWK["x"] + "="},
    "coordinate of a number": {**EC_JWK, "x": 5},
    "point at infinity": {**EC_JWK, "x": "A" * 43, "y": "A" * 43},
    "RSA too short": {**RSA_JWK, "n": _number(2**2047 - 1)},
    "RSA too long": {**RSA_JWK, "n": _number(2**8200 + 1)},
    "RSA endless": {**RSA_JWK, "n": "A" * 100_000},
    "RSA modulus even": {**RSA_JWK, "n": _number(2**2048 - 2)},
    "RSA exponent one": {**RSA_JWK, "e": _number(1)},
    "RSA exponent zero": {**RSA_JWK, "e": "AA"},
    "RSA exponent even": {**RSA_JWK, "e": _number(65536)},
    "RSA exponent huge": {**RSA_JWK, "e": _number(2**64 + 1)},
    "Ed25519 too long": {**ED_JWK, "x": ED_JWK["x"] + "AAAA"},
    "Ed448": {**ED_JWK, "crv": "Ed448"},
    "X25519": {**ED_JWK, "crv": "X25519"},
    "alg of another type": {**EC_JWK, "alg": "RS256"},
    "alg of a shared secret": {**RSA_JWK, "alg": "HS256"},
    "alg none": {**RSA_JWK, "alg": "none"},
    "alg of a number": {**EC_JWK, "alg": 1},
    "kid of a number": {**EC_JWK, "kid": 1},
    "kid endless": {**EC_JWK, "kid": "k" * 10_000},
}


@pytest.mark.parametrize("jwk", BAD_KEYS.values(), ids=BAD_KEYS.keys())
def test_what_is_no_usable_public_key_is_refused(jwk: object) -> None:
    """Each with an error that does not repeat the input, and left out of a set."""
    with pytest.raises(JWKError) as refused:
        parse_jwk(jwk)
    assert len(str(refused.value)) < 100
    keys = parse_jwks({"keys": [jwk, {**EC_JWK, "kid": "good"}]})
    assert [key.kid for key in keys] == ["good"]
    assert keys.skipped == 1


def test_only_keys_that_say_so_serve_a_special_use() -> None:
    """In a SPIFFE bundle, a key without ``use`` or with that of X.509 verifies no JWT-SVID."""
    keys = [
        {**EC_JWK, "kid": "a"},
        {**EC_JWK, "kid": "b", "use": "x509-svid"},
        {**EC_JWK, "kid": "c", "use": "jwt-svid"},
    ]
    assert [key.kid for key in parse_jwks({"keys": keys}, use="jwt-svid")] == ["c"]


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"<html>",
        b'{"keys": {}}',
        b"{}",
        b'{"keys": [], "keys": []}',
        b'{"keys": ' + b"[" * 5000,
        json.dumps({"keys": [EC_JWK] * 101}).encode(),
    ],
)
def test_what_is_no_key_set_is_refused(document: bytes) -> None:
    """Wrong content and sets without end are one clear error."""
    with pytest.raises(JWKError):
        parse_jwks(document)


def test_a_set_may_be_limited_further() -> None:
    """A client's set is held to fewer keys than a platform's."""
    keys = {"keys": [{**EC_JWK, "kid": str(n)} for n in range(21)]}
    assert len(parse_jwks(keys)) == 21
    with pytest.raises(JWKError, match="20"):
        parse_jwks(keys, limit=20)


def test_keys_are_found_by_their_id() -> None:
    """Without a ``kid``, no key of an issuer is meant, even if there is just one."""
    keys = parse_jwks({"keys": [{**EC_JWK, "kid": "a"}, {**RSA_JWK, "kid": "b"}, ED_JWK]})
    assert len(keys) == 3
    assert "a" in keys
    assert "c" not in keys
    found = keys.find("b", "RS256")
    assert found is not None
    assert found.kid == "b"
    assert keys.find("c", "RS256") is None
    assert keys.find(None, "EdDSA") is None
    assert parse_jwks({"keys": [EC_JWK]}).find(None, "ES256") is None
    assert parse_jwks({"keys": [EC_JWK]}).find(thumbprint(EC_JWK), "ES256") is None


def test_keys_of_one_id_are_told_apart_by_algorithm_or_not_at_all() -> None:
    """Two keys that a token could mean are no key."""
    both = parse_jwks({"keys": [{**EC_JWK, "kid": "a"}, {**RSA_JWK, "kid": "a"}]})
    chosen = both.find("a", "RS256")
    assert chosen is not None
    assert isinstance(chosen.key, rsa.RSAPublicKey)
    other = public_jwk(private_key("ES256").public_key())
    assert parse_jwks({"keys": [{**EC_JWK, "kid": "a"}, {**other, "kid": "a"}]}).find("a", "ES256") is None


def test_a_clients_only_key_needs_no_id() -> None:
    """A client may leave ``kid`` out while it has one key, or name the key by its thumbprint."""
    one, other = parse_jwk({**EC_JWK, "kid": "mine"}), parse_jwk(ED_JWK)
    alone = KeySet([one], kid_optional=True)
    assert alone.find(None, "ES256") == alone.find("mine", "ES256") == alone.find(one.thumbprint, "ES256") == one
    assert alone.find("other", "ES256") is None
    both = KeySet([one, other], kid_optional=True)
    assert both.find(None, "ES256") is None
    assert both.find(other.thumbprint, "EdDSA") == other


def test_other_keys_have_no_jwk() -> None:
    """A curve that we do not verify with cannot be written down by mistake."""
    with pytest.raises(JWKError):
        public_jwk(ec.generate_private_key(ec.SECP256K1()).public_key())
    with pytest.raises(JWKError):
        public_jwk(ed25519.Ed25519PrivateKey.generate())  # type: ignore[arg-type]
    with pytest.raises(JWKError):
        thumbprint({"kty": "oct", "k": "AA"})
    with pytest.raises(JWKError):
        thumbprint({"kty": "EC", "crv": "P-256", "x": 1, "y": "AA"})


def test_a_key_of_our_own_can_be_named_freely() -> None:
    """What the key ring makes behaves like what was read."""
    key = VerificationKey(kid="k", alg="ES256", key=parse_jwk(EC_JWK).key, thumbprint="k")
    assert KeySet([key]).find("k", "ES256") is key
    assert list(KeySet([key])) == [key]
