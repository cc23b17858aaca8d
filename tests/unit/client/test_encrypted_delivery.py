"""Secrets that come encrypted: what the broker makes is read, and nothing else is taken for it."""

from __future__ import annotations

import json

import pytest
from joserfc import jwe
from joserfc.jwk import ECKey

from broker.client.delivery import DeliveryError, DeliveryKey
from broker.core import base64url
from broker.core.secret import Secret
from broker.signing.delivery import encrypted

DATA = b'{"password":"s3cr3t-of-the-lease"}'
AGREED = {"alg": "ECDH-ES+A256KW", "enc": "A256GCM"}


def sealed(key: DeliveryKey, header: dict[str, str]) -> str:
    """Encrypt with another implementation, as a header says."""
    algorithms = [header["alg"], header["enc"], "DEF"]
    return jwe.encrypt_compact(dict(header), DATA, ECKey.import_key({**key.jwk}), algorithms=algorithms)


def test_what_the_broker_encrypts_is_read() -> None:
    """Many times: numbers with leading zeros are numbers of the full length."""
    for _ in range(300):
        key = DeliveryKey()
        assert key.open(encrypted(Secret(DATA), key.jwk)).reveal() == DATA


def test_another_implementation_agrees() -> None:
    """With no more than the header needs."""
    key = DeliveryKey()
    assert key.open(sealed(key, AGREED)).reveal() == DATA


def test_nobody_else_reads_it() -> None:
    """Another key does not, and says nothing of what is in it."""
    made = encrypted(Secret(DATA), DeliveryKey().jwk)
    with pytest.raises(DeliveryError, match="not encrypted as agreed"):
        DeliveryKey().open(made)
    with pytest.raises(DeliveryError, match="cannot be decrypted"):
        DeliveryKey().open(sealed(DeliveryKey(), AGREED))


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "ECDH-ES+A128KW", "enc": "A256GCM"},
        {"alg": "ECDH-ES+A256KW", "enc": "A128GCM"},
        {"alg": "ECDH-ES+A256KW", "enc": "A256CBC-HS512"},
        {"alg": "ECDH-ES", "enc": "A256GCM"},
        {**AGREED, "zip": "DEF"},
        {**AGREED, "kid": "another"},
        {**AGREED, "apu": "QWxpY2U"},
    ],
)
def test_only_what_was_agreed(header: dict[str, str]) -> None:
    """No other algorithm, no compression, no other key, no member that is not known."""
    key = DeliveryKey()
    made = sealed(key, header)
    with pytest.raises(DeliveryError, match="not encrypted as agreed"):
        key.open(made)


@pytest.mark.parametrize("part", range(5))
def test_every_part_counts(part: int) -> None:
    """A changed bit anywhere is noticed."""
    key = DeliveryKey()
    parts = encrypted(Secret(DATA), key.jwk).split(".")
    data = bytearray(base64url.decode(parts[part]))
    data[len(data) // 2] ^= 1
    parts[part] = base64url.encode(bytes(data))
    with pytest.raises(DeliveryError):
        key.open(".".join(parts))


@pytest.mark.parametrize("epk", [None, 5, {}, {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, "P-384"])
def test_a_strange_key_of_the_sender(epk: object) -> None:
    """A point that is not on the curve never meets our key."""
    key = DeliveryKey()
    if epk == "P-384":
        epk = ECKey.generate_key("P-384").as_dict(private=False)
    parts = encrypted(Secret(DATA), key.jwk).split(".")
    header = {**json.loads(base64url.decode(parts[0])), "epk": epk}
    parts[0] = base64url.encode(json.dumps(header).encode())
    with pytest.raises(DeliveryError, match="key of its sender"):
        key.open(".".join(parts))


@pytest.mark.parametrize("text", ["", ".", "....", "a.b.c.d.e", "a.b.c.d.e.f", "\u00e9.b.c.d.e", "W10.b.c.d.e"])
def test_what_is_no_jwe(text: str) -> None:
    """Whatever it is."""
    with pytest.raises(DeliveryError, match="cannot be decrypted"):
        DeliveryKey().open(text)


def test_the_private_half_is_not_shown() -> None:
    """Nor in the public key that is sent."""
    key = DeliveryKey()
    assert set(key.jwk) == {"kty", "crv", "x", "y"}
    assert repr(key).startswith("DeliveryKey('")
