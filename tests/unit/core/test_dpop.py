"""DPoP proofs: made with a key, for one request, just now, and only once."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from broker.core.dpop import (
    ALGORITHMS,
    NONCE_SECONDS,
    Proof,
    ReplayWindow,
    check_proof,
    is_nonce,
    make_nonce,
    normal_url,
)
from broker.core.errors import BrokerError, Code
from broker.core.jwk import public_jwk, thumbprint
from tests.support.identity_provider import SigningKey, forge

NOW = 1_795_300_000.0
URL = "https://broker.example/oauth2/token"
NONCE_KEY = b"n" * 32
KEY = SigningKey()
JWK = public_jwk(KEY.private.public_key())
VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "jose.json").read_text())
CLAIMS: dict[str, Any] = {"jti": "p1", "htm": "POST", "htu": URL, "iat": int(NOW)}


def _proof(key: SigningKey = KEY, /, headers: dict[str, Any] | None = None, **changes: object) -> str:
    claims = {name: value for name, value in {**CLAIMS, **changes}.items() if value is not ...}
    jwk = public_jwk(key.private.public_key())
    return key.sign(claims, **{"typ": "dpop+jwt", "jwk": jwk, **(headers or {})})


def _check(proof: str, *, method: str = "POST", url: str = URL, now: float = NOW, **more: Any) -> Proof:  # noqa: ANN401 - passed on
    return check_proof(proof, method=method, url=url, now=now, **more)


def _code(proof: str, **more: Any) -> Code:  # noqa: ANN401 - passed on
    with pytest.raises(BrokerError) as refused:
        _check(proof, **more)
    assert refused.value.public
    return refused.value.code


# --- good proofs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["proofs"], ids=lambda vector: vector["source"])
def test_the_rfcs_own_proofs_pass(vector: dict[str, Any]) -> None:
    """RFC 9449's examples, at their own time, for their own requests."""
    proof = _check(
        vector["proof"],
        method=vector["method"],
        url=vector["url"],
        now=vector["iat"],
        access_token=vector.get("access_token"),
    )
    assert (proof.jkt, proof.jti) == (vector["jkt"], vector["jti"])


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_every_advertised_algorithm_works(alg: str) -> None:
    """What metadata names is accepted, and the key is known by its thumbprint."""
    key = SigningKey(alg=alg)
    assert _check(_proof(key)).jkt == thumbprint(public_jwk(key.private.public_key()))


def test_other_algorithms_are_refused() -> None:
    """Only those that are advertised."""
    for alg in ("ES384", "ES512", "EdDSA"):
        assert _code(_proof(SigningKey(alg=alg))) is Code.PROOF_INVALID
    for alg in ("none", "HS256"):
        assert _code(forge({"typ": "dpop+jwt", "alg": alg, "jwk": JWK}, CLAIMS)) is Code.PROOF_INVALID


# --- the key --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "jwk",
    [
        None,
        "key",
        {},
        {**JWK, "d": "AAAA"},
        {**JWK, "k": "AAAA"},
        {"kty": "oct", "k": "AAAA"},
        {**JWK, "y": JWK["x"]},
        {**JWK, "use": "enc"},
        {**JWK, "alg": "ES384"},
    ],
)
def test_the_key_must_be_a_public_one(jwk: object) -> None:
    """A proof that carries a private key gives it away; a key of another kind proves nothing."""
    assert _code(_proof(headers={"jwk": jwk})) is Code.PROOF_INVALID


def test_the_key_in_the_header_must_have_signed() -> None:
    """Another's public key is easy to copy."""
    other = SigningKey()
    assert _code(_proof(other, {"jwk": JWK})) is Code.PROOF_INVALID


@pytest.mark.parametrize("typ", [None, "JWT", "at+jwt", "dpop"])
def test_another_token_is_no_proof(typ: str | None) -> None:
    """``typ`` must say that it is one."""
    assert _code(_proof(headers={"typ": typ})) is Code.PROOF_INVALID


@pytest.mark.parametrize("proof", ["", "x", "a.b.c", "x" * 5000, "\u00e9.a.b"])
def test_garbage_is_no_proof(proof: str) -> None:
    """Nor is what is longer than a proof could be."""
    assert _code(proof) is Code.PROOF_INVALID


# --- the request ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"htm": "GET"},
        {"htm": "post"},
        {"htm": ...},
        {"htm": ["POST"]},
        {"htu": "https://broker.example/oauth2/revoke"},
        {"htu": "http://broker.example/oauth2/token"},
        {"htu": "https://broker.example:8443/oauth2/token"},
        {"htu": "https://evil.example/oauth2/token"},
        {"htu": "https://broker.example@evil.example/oauth2/token"},
        {"htu": "https://broker.example/oauth2/token/"},
        {"htu": "https://broker.example/OAuth2/token"},
        {"htu": "/oauth2/token"},
        {"htu": ""},
        {"htu": ...},
        {"htu": 5},
        {"jti": ...},
        {"jti": ""},
        {"jti": 5},
        {"jti": "j" * 513},
        {"iat": ...},
        {"iat": str(int(NOW))},
        {"iat": True},
    ],
)
def test_a_proof_is_for_one_request(change: dict[str, Any]) -> None:
    """Method and URL must be those of the request, and nothing may be missing."""
    assert _code(_proof(**change)) is Code.PROOF_INVALID


@pytest.mark.parametrize(
    "htu",
    [
        "https://broker.example/oauth2/token?x=1",
        "https://broker.example/oauth2/token#x",
        "HTTPS://BROKER.Example/oauth2/token",
        "https://broker.example:443/oauth2/token",
        "https://broker.example/oauth2/%74oken",
        "https://broker.example/a/../oauth2/./token",
    ],
)
def test_equal_urls_are_equal(htu: str) -> None:
    """RFC 9449, 4.3: query and fragment do not count, and normal forms are compared."""
    assert _check(_proof(htu=htu)).jti == "p1"


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://s.example", "https://s.example/"),
        ("https://s.example/a/..", "https://s.example/"),
        ("https://s.example/../../a", "https://s.example/a"),
        ("https://s.example/a/.", "https://s.example/a/"),
        ("https://s.example/%2f%7Ea", "https://s.example/%2F~a"),
        ("https://s.example//a", "https://s.example//a"),
        ("http://[2001:DB8::1]:80/a", "http://[2001:db8::1]/a"),
        ("http://s.example:8080/a", "http://s.example:8080/a"),
        ("https://s.example:80/a", "https://s.example:80/a"),
        ("https://s.example:99999/", None),
        ("https://u@s.example/", None),
        ("https://s.example/%zz", None),
        ("https://s.example/a b", None),
        ("https://s.example/a\nb", None),
        ("https://s.example\\@evil.example/", None),
        ("https://s\u00e9.example/", None),
        ("ftp://s.example/", None),
        ("https:///a", None),
        ("https://[::1/a", None),
        ("https://s.example/" + "a" * 5000, None),
    ],
)
def test_urls_have_one_normal_form(url: str, normal: str | None) -> None:
    """RFC 3986, 6.2.2 and 6.2.3; what two parsers could read differently has none."""
    assert normal_url(url) == normal


def test_a_proof_can_be_bound_to_an_access_token() -> None:
    """At a resource, ``ath`` must be the hash of the very token that was sent."""
    token = "eyJ.token"
    ath = base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()
    assert _check(_proof(ath=ath), access_token=token).jti == "p1"
    for wrong in (..., ath + "=", "", 5, ath[:-1]):
        assert _code(_proof(ath=wrong), access_token=token) is Code.PROOF_INVALID
    assert _code(_proof(ath=ath), access_token=token + "x") is Code.PROOF_INVALID


# --- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "good"), [(0, True), (60, True), (61, False), (-60, True), (-61, False), (10_000, False)]
)
def test_a_proof_is_fresh(age: int, good: bool) -> None:
    """A minute to either side; and it is remembered until it would be refused as too old."""
    proof = _proof(iat=int(NOW) - age)
    if not good:
        assert _code(proof) is Code.PROOF_INVALID
        return
    ends = _check(proof).expires_at
    assert ends > NOW
    assert _code(proof, now=float(ends)) is Code.PROOF_INVALID


def test_a_nonce_makes_up_for_a_wrong_clock() -> None:
    """With our nonce, ``iat`` may be five minutes off; without it, the caller is told to take one."""
    nonce = make_nonce(NONCE_KEY, NOW)
    for age in (0, 300, -300):
        proof = _check(_proof(nonce=nonce, iat=int(NOW) - age), nonce_key=NONCE_KEY)
        assert proof.expires_at > NOW
    assert _code(_proof(nonce=nonce, iat=int(NOW) - 301), nonce_key=NONCE_KEY) is Code.PROOF_INVALID
    for missing in (..., "", 5, "other", nonce + "A", make_nonce(b"m" * 32, NOW)):
        for iat in (int(NOW), int(NOW) - 250):
            assert _code(_proof(nonce=missing, iat=iat), nonce_key=NONCE_KEY) is Code.PROOF_NONCE_REQUIRED


def test_a_nonce_lives_for_two_periods_and_holds_no_state() -> None:
    """The one of now and the one before are good, on any replica that has the key."""
    start = NOW - NOW % NONCE_SECONDS
    nonce = make_nonce(NONCE_KEY, start)
    assert nonce == make_nonce(NONCE_KEY, start + NONCE_SECONDS - 0.1)
    assert is_nonce(NONCE_KEY, nonce, start + 2 * NONCE_SECONDS - 0.1)
    assert not is_nonce(NONCE_KEY, nonce, start + 2 * NONCE_SECONDS)
    assert not is_nonce(NONCE_KEY, nonce, start - 0.1)
    assert not is_nonce(NONCE_KEY, "\u00e9", start)


# --- replay ---------------------------------------------------------------------------------------------------------


def test_the_replay_key_is_of_key_and_jti() -> None:
    """The same proof is known again; another key may use the same ``jti``."""
    first = _check(_proof())
    assert first.replay_key == _check(_proof(), now=NOW + 5).replay_key
    assert first.replay_key != _check(_proof(jti="p2")).replay_key
    assert first.replay_key != _check(_proof(SigningKey())).replay_key


def _name(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def test_a_proof_is_used_once_while_it_is_good() -> None:
    """Again at the same instant, and later; once it has expired it is refused for that."""
    window = ReplayWindow()
    assert window.use(_name(1), 160, 100.0)
    assert not window.use(_name(1), 160, 100.0)
    assert not window.use(_name(1), 160, 159.9)
    assert window.use(_name(2), 160, 159.9)
    assert not window.use(_name(1), 160, 160.0)
    assert not window.use(_name(3), 160, 160.0)
    assert len(window) == 0


def test_a_full_window_refuses_rather_than_forgets() -> None:
    """Whoever fills it gains no second use of any proof; room comes back as proofs expire."""
    window = ReplayWindow(size=3)
    assert all(window.use(_name(n), 100 + n, 50.0) for n in range(3))
    assert not window.use(_name(9), 200, 50.0)
    assert not any(window.use(_name(n), 100 + n, 50.0) for n in range(3))
    assert window.use(_name(9), 200, 100.0)
    assert not window.use(_name(1), 101, 100.0)
    assert len(window) == 3


def test_a_clock_that_steps_back_forgets_nothing() -> None:
    """What was remembered stays so."""
    window = ReplayWindow()
    assert window.use(_name(1), 160, 100.0)
    assert not window.use(_name(1), 160, 50.0)


def test_what_was_made_before_the_memory_began_is_not_taken() -> None:
    """It may have been used before a restart; a proof of the very second in which the memory began is taken."""
    since, key = NOW + 0.75, SigningKey()
    window = ReplayWindow(since=since)
    for iat, is_taken in ((int(since) - 1, False), (int(since), True), (int(since) + 5, True)):
        proof = _check(_proof(key, iat=iat, jti=str(iat)), now=since)
        assert window.use(proof.replay_key, proof.expires_at, since) is is_taken
