"""The proofs that an agent makes are those that the broker's own check accepts."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from broker.client import DpopKey
from broker.client.dpop import MAX_ORIGINS, Nonces
from broker.core.dpop import check_proof
from broker.core.errors import BrokerError, Malformed

NOW = 1_795_300_000.0
URL = "https://tickets.internal/tickets/8812"


def test_a_proof_passes_the_check_of_the_other_side() -> None:
    """Method, URL without query, token hash, time, and the key's thumbprint."""
    key = DpopKey.generate()
    proof = key.proof("post", f"{URL}?secret=1#part", now=NOW, access_token="a.b.c")
    checked = check_proof(proof, method="POST", url=URL, now=NOW, access_token="a.b.c")
    assert checked.jkt == key.thumbprint


@pytest.mark.parametrize(("method", "url", "token"), [("GET", URL, "t"), ("POST", URL + "x", "t"), ("POST", URL, "u")])
def test_a_proof_is_for_one_request(method: str, url: str, token: str) -> None:
    """It serves no other method, URL or token."""
    proof = DpopKey.generate().proof("POST", URL, now=NOW, access_token="t")
    with pytest.raises(BrokerError):
        check_proof(proof, method=method, url=url, now=NOW, access_token=token)


def test_each_proof_is_another() -> None:
    """A proof is used once."""
    key = DpopKey.generate()
    assert key.proof("GET", URL, now=NOW) != key.proof("GET", URL, now=NOW)


def test_the_key_stays_inside() -> None:
    """Only the public thumbprint is shown."""
    key = DpopKey(ec.generate_private_key(ec.SECP256R1()))
    assert repr(key) == f"DpopKey('{key.thumbprint}')"


def test_another_curve_is_refused() -> None:
    """ES256 is what every verifier supports."""
    with pytest.raises(Malformed):
        DpopKey(ec.generate_private_key(ec.SECP384R1()))


def test_nonces_belong_to_origins() -> None:
    """The nonce of one server is not sent to another, whatever the path."""
    nonces = Nonces()
    assert nonces.remember("https://a.example/x", "n1")
    assert not nonces.remember("https://A.example/y", "n1")
    assert nonces.of("https://a.example/z") == "n1"
    assert nonces.of("https://b.example/x") is None
    assert nonces.of("http://a.example/x") is None


def test_nonces_are_bounded() -> None:
    """Neither their number nor their length can be blown up from outside."""
    nonces = Nonces()
    assert not nonces.remember("https://a.example", "n" * 257)
    assert not nonces.remember("https://a.example", "")
    assert not nonces.remember("https://a.example", None)
    for number in range(MAX_ORIGINS + 1):
        nonces.remember(f"https://{number}.example", "n")
    assert nonces.of("https://0.example") is None
    assert nonces.of(f"https://{MAX_ORIGINS}.example") == "n"
