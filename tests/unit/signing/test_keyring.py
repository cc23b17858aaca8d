"""The key ring: which key signs, which are published, and what a rotation changes."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from broker.core.change import StoredKey
from broker.core.errors import Code, Malformed, Unavailable
from broker.core.key_schedule import DEFAULT_LEAD, RETIRE_MARGIN, SHORTEST_LEAD
from broker.core.secret import Secret
from broker.signing.keyring import KeyRing
from broker.signing.private_key import SigningKey, new_key, open_key
from broker.signing.sealing import Sealer, SealingError

NOW = 1_800_000_000.0
SEALER = Sealer(Secret(bytes(range(32))))
LONGEST = 900


def _ring(*rows: StoredKey) -> KeyRing:
    return KeyRing(rows, SEALER, longest_token=LONGEST)


def _merged(rows: tuple[StoredKey, ...], changed: tuple[StoredKey, ...]) -> tuple[StoredKey, ...]:
    """Return what the store holds after a rotation."""
    return tuple(({row.kid: row for row in rows} | {row.kid: row for row in changed}).values())


@pytest.fixture(scope="module")
def first() -> tuple[StoredKey, ...]:
    """The keys of a new broker; making an RSA key takes a moment, so they are made once."""
    return _ring().missing(NOW)


def _kids(ring: KeyRing, now: float) -> set[str]:
    return {key["kid"] for key in ring.jwks(now)["keys"]}


def test_a_new_broker_gets_the_keys_that_it_needs(first: tuple[StoredKey, ...]) -> None:
    """ES256 and RS256 for tokens, Ed25519 for checkpoints, all active at once; once they are there, none is missing."""
    assert [(row.use, row.alg) for row in first] == [("token", "ES256"), ("token", "RS256"), ("checkpoint", "EdDSA")]
    assert all(row.active_at == row.created_at == NOW and row.retires_at is None for row in first)
    ring = _ring(*first)
    assert ring.missing(NOW) == ()
    assert ring.signing_kid(NOW) == first[0].kid
    assert ring.signer(NOW, alg="RS256").kid == first[1].kid
    assert ring.signer(NOW, use="checkpoint", alg="EdDSA").kid == first[2].kid


def test_the_published_keys_are_a_clean_jwks(first: tuple[StoredKey, ...]) -> None:
    """RFC 7517: token keys only, the default algorithm first, no private member; another library can load each."""
    jwks = _ring(*first).jwks(NOW)
    assert [(key["kty"], key["alg"], key["use"]) for key in jwks["keys"]] == [
        ("EC", "ES256", "sig"),
        ("RSA", "RS256", "sig"),
    ]
    assert not {"d", "p", "q", "dp", "dq", "qi", "oth", "k"} & {name for key in jwks["keys"] for name in key}
    assert [key.key_id for key in jwt.PyJWKSet.from_dict(jwks).keys] == [row.kid for row in first[:2]]
    assert json.loads(json.dumps(jwks)) == jwks


def test_changing_a_returned_jwks_changes_nothing(first: tuple[StoredKey, ...]) -> None:
    """What is handed out is the caller's own copy."""
    ring = _ring(*first)
    ring.jwks(NOW)["keys"].clear()
    ring.jwks(NOW)["keys"][0]["kid"] = "forged"
    assert _kids(ring, NOW) == {row.kid for row in first[:2]}


def test_a_rotation_publishes_first_and_signs_later(first: tuple[StoredKey, ...]) -> None:
    """The new keys are published at once, sign after the lead, and the old ones leave after their last token."""
    ring = _ring(*first)
    rotation = ring.rotated(NOW + 1000)
    assert rotation.compromised == ()
    assert _kids(ring, NOW + 1000) == {row.kid for row in first[:2]}, "nothing changes before it is durable"
    ring.replace(_merged(first, rotation.rows))

    new = {row.alg: row for row in rotation.rows if row.kid not in {old.kid for old in first}}
    assert set(new) == {"ES256", "RS256"}
    old_kids, new_kids = {row.kid for row in first[:2]}, {row.kid for row in new.values()}
    active_at = NOW + 1000 + DEFAULT_LEAD
    gone_at = active_at + LONGEST + RETIRE_MARGIN
    assert _kids(ring, NOW + 1000) == old_kids | new_kids
    assert ring.signing_kid(active_at - 0.01) == first[0].kid
    assert ring.signing_kid(active_at) == new["ES256"].kid
    assert _kids(ring, gone_at - 0.01) == old_kids | new_kids
    assert _kids(ring, gone_at) == new_kids
    assert ring.signer(gone_at, use="checkpoint", alg="EdDSA").kid == first[2].kid


def test_an_emergency_signs_with_new_keys_at_once(first: tuple[StoredKey, ...]) -> None:
    """The old keys are published no more, do not verify, and are named so that a rule can kill what they signed."""
    ring = _ring(*first)
    rotation = ring.replaced(NOW + 1000)
    assert set(rotation.compromised) == {row.kid for row in first[:2]}
    ring.replace(_merged(first, rotation.rows))
    assert ring.signing_kid(NOW + 1000) not in rotation.compromised
    assert not _kids(ring, NOW + 1000) & set(rotation.compromised)
    assert len(_kids(ring, NOW + 1000)) == 2
    assert all(kid not in ring.verification_keys(NOW + 1000) for kid in rotation.compromised)


def test_an_emergency_works_with_a_clock_that_was_set_back(first: tuple[StoredKey, ...]) -> None:
    """Revoking does not depend on the clock."""
    ring = _ring(*first)
    rotation = ring.replaced(NOW - 86_400)
    ring.replace(_merged(first, rotation.rows))
    assert ring.signing_kid(NOW - 86_400) not in rotation.compromised


def test_a_rotation_that_verifiers_cannot_follow_is_refused(first: tuple[StoredKey, ...]) -> None:
    """Pitfall 28."""
    with pytest.raises(Malformed, match="malformed_request"):
        _ring(*first).rotated(NOW, lead=SHORTEST_LEAD - 1)


def test_a_broker_without_a_key_says_so() -> None:
    """It cannot sign, and does not pretend to."""
    with pytest.raises(Unavailable) as caught:
        _ring().signing_kid(NOW)
    assert caught.value.code is Code.INTERNAL
    assert _ring().jwks(NOW) == {"keys": []}


def test_eddsa_can_sign_tokens_too() -> None:
    """It is no default, since some consumers cannot verify it (pitfall 21)."""
    row = _ring().generate("EdDSA", "token", NOW, NOW)
    ring = _ring(row)
    key = ring.signer(NOW, alg="EdDSA")
    token = key.jwt("JWT", b'{"a":1}')
    assert jwt.decode(token, jwt.PyJWK(ring.jwks(NOW)["keys"][0]), algorithms=["EdDSA"]) == {"a": 1}
    assert [row.alg for row in ring.rotated(NOW).rows] == ["EdDSA", "EdDSA"]


@pytest.mark.parametrize("alg", ["HS256", "none", "ES384", "PS256", ""])
def test_no_other_algorithm_can_be_asked_for(alg: str) -> None:
    """Least of all a symmetric one, or none."""
    with pytest.raises(ValueError, match="ES256, RS256, EdDSA only"):
        _ring().generate(alg, "token", NOW, NOW)


@pytest.mark.parametrize("alg", ["ES256", "RS256", "EdDSA"])
def test_signatures_hold_before_another_library(alg: str, first: tuple[StoredKey, ...]) -> None:
    """Many of them, since an ES256 signature with a short r or s must be padded."""
    row = next(row for row in first if row.alg == alg)
    key = open_key(row, SEALER)
    public = jwt.PyJWK(key.published())
    for number in range(300 if alg != "RS256" else 5):
        token = key.jwt("JWT", json.dumps({"n": number}).encode())
        assert jwt.decode_complete(token, public, algorithms=[alg])["payload"] == {"n": number}
        assert jwt.get_unverified_header(token) == {"typ": "JWT", "alg": alg, "kid": row.kid}


def test_a_row_that_is_not_what_it_says_is_refused(first: tuple[StoredKey, ...]) -> None:
    """Whoever can write to the store but lacks the master key can neither put a key in nor give one another role."""
    token, rsa, checkpoint = first
    mine = KeyRing((), Sealer(Secret(bytes(range(7, 39)))), longest_token=LONGEST).generate("ES256", "token", NOW, NOW)
    plain = generate_private_key(SECP256R1()).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    for row in (
        mine,
        replace(token, sealed=plain),
        replace(token, sealed=b""),
        replace(token, sealed=rsa.sealed),
        replace(token, kid=rsa.kid),
        replace(token, use="checkpoint"),
        replace(checkpoint, use="token"),
        replace(rsa, alg="PS256"),
        replace(token, alg="RS256"),
    ):
        with pytest.raises(SealingError, match=row.kid):
            _ring(row)


@pytest.mark.parametrize("plaintext", [b"", b"not a key", b"\x30\x00"])
def test_sealed_rubbish_is_refused(plaintext: bytes) -> None:
    """Even under the right master key, only a private key of the right type is one."""
    sealed = SEALER.seal(plaintext, "private key token ES256 kid")
    with pytest.raises(SealingError, match="key kid: not a private key"):
        _ring(StoredKey("kid", "token", "ES256", {}, sealed, NOW, NOW))


def test_what_is_published_does_not_come_from_the_row(first: tuple[StoredKey, ...]) -> None:
    """A public key that was changed in the store is not vouched for."""
    stranger = new_key("ES256")
    ring = _ring(replace(first[0], public_jwk=stranger.published()))
    assert _kids(ring, NOW) == {first[0].kid}
    assert ring.jwks(NOW) == _ring(first[0]).jwks(NOW)


def test_a_damaged_row_does_not_hold_up_a_revocation(first: tuple[StoredKey, ...]) -> None:
    """The ring complains, and yet stops using the key that was revoked; an emergency revokes damaged rows too."""
    token, rsa, checkpoint = first
    ring = _ring(*first)
    with pytest.raises(SealingError, match=rsa.kid):
        ring.replace([replace(token, revoked=True), replace(rsa, sealed=b"damaged"), checkpoint])
    assert _kids(ring, NOW) == set()
    with pytest.raises(Unavailable):
        ring.signing_kid(NOW)
    assert ring.replaced(NOW).compromised == (rsa.kid,)
    assert {row.alg for row in ring.missing(NOW)} == {"ES256", "RS256"}


def test_keys_do_not_show(first: tuple[StoredKey, ...]) -> None:
    """Private key bytes are in no repr, text, pickle, copy or stored row."""
    ring = _ring(*first)
    for row in first:
        key = open_key(row, SEALER)
        assert repr(key) == str(key) == f"{key}" == f"SigningKey({row.alg}, {row.kid})"
        for escape in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError):
                escape(key)
        with pytest.raises(TypeError):
            json.dumps(key)
        secret = _secret_bytes(key)
        shown = repr((row, key, ring, ring.verification_keys(NOW), ring.jwks(NOW))).encode()
        for form in (secret, secret.hex().encode(), repr(secret)[2:-1].encode()):
            assert form not in shown
        assert secret not in row.sealed
    with pytest.raises(TypeError):
        pickle.dumps(ring)


def _secret_bytes(key: SigningKey) -> bytes:
    return key._private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())[-32:]
