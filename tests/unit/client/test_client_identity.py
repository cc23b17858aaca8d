"""How an agent proves which workload it is."""

from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from broker.client import KeyIdentity, PlatformIdentity, TokenUnavailable
from broker.core.errors import Malformed

ISSUER = "https://broker.example"
NOW = 1_795_300_000.7
RSA = rsa.generate_private_key(65537, 2048)
P256 = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (P256, "ES256"),
        (ec.generate_private_key(ec.SECP384R1()), "ES384"),
        (RSA, "RS256"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    ],
)
async def test_a_key_identity_signs_one_assertion_per_request(key: PrivateKeyTypes, algorithm: str) -> None:
    """It is for this broker only, for a minute, for one use, and verifies with the public key."""
    identity = KeyIdentity("triage", key)
    first, second = [await identity.parameters(ISSUER, NOW) for _ in range(2)]
    assert first["grant_type"] == "client_credentials"
    assert first["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    options = {"verify_exp": False, "verify_iat": False}
    claims = [
        jwt.decode(
            form["client_assertion"],
            key.public_key(),  # type: ignore[arg-type]
            algorithms=[algorithm],
            audience=ISSUER,
            options=options,  # type: ignore[arg-type]
        )
        for form in (first, second)
    ]
    assert claims[0]["iss"] == claims[0]["sub"] == "triage"
    assert (claims[0]["aud"], claims[0]["iat"], claims[0]["exp"]) == (ISSUER, 1_795_300_000, 1_795_300_060)
    assert claims[0]["jti"] != claims[1]["jti"]


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP256K1()),
        rsa.generate_private_key(65537, 1024),  # noqa: S505 - what must be refused
        x25519.X25519PrivateKey.generate(),
    ],
)
def test_keys_that_the_broker_would_refuse_are_refused_at_once(key: PrivateKeyTypes) -> None:
    """The text says which keys will do."""
    with pytest.raises(Malformed) as caught:
        KeyIdentity("triage", key)
    assert "P-256" in caught.value.public


def test_a_key_identity_does_not_show_its_key() -> None:
    """The name is all there is to see."""
    assert repr(KeyIdentity("triage", P256)) == "KeyIdentity(name='triage')"


def test_a_key_is_read_from_a_file(tmp_path: Path) -> None:
    """With or without a password; anything else is refused without repeating it."""
    plain, locked, wrong = tmp_path / "plain.pem", tmp_path / "locked.pem", tmp_path / "wrong.pem"
    plain.write_bytes(P256.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    locked.write_bytes(P256.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open")))
    wrong.write_bytes(b"canary")
    assert KeyIdentity.from_file("triage", plain).name == "triage"
    assert KeyIdentity.from_file("triage", locked, b"open").name == "triage"
    for path, password in ((wrong, None), (locked, None), (locked, b"shut")):
        with pytest.raises(Malformed) as caught:
            KeyIdentity.from_file("triage", path, password)
        assert "canary" not in caught.value.public


async def test_a_platform_token_is_read_again_each_time(tmp_path: Path) -> None:
    """Platforms replace the file while the workload runs."""
    path = tmp_path / "token"
    identity = PlatformIdentity(path)
    path.write_text("first.platform.token\n")
    assert await identity.parameters(ISSUER, NOW) == {
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "assertion": "first.platform.token",
    }
    path.write_text("second.platform.token")
    assert (await PlatformIdentity(str(path)).parameters(ISSUER, NOW))["assertion"] == "second.platform.token"
    assert (await identity.parameters(ISSUER, NOW))["assertion"] == "second.platform.token"


async def test_a_platform_token_may_come_from_a_function() -> None:
    """Such as one that asks a metadata server."""
    assert (await PlatformIdentity(lambda: "a.b.c").parameters(ISSUER, NOW))["assertion"] == "a.b.c"


@pytest.mark.parametrize("content", [b"", b" \n", b"x" * 16_385, b"a b\nc", b"\xff\xfe", "tök.en".encode()])
async def test_what_is_no_token_is_not_sent(tmp_path: Path, content: bytes) -> None:
    """The platform may be writing it just now: trying again may help."""
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(TokenUnavailable):
        await PlatformIdentity(path).parameters(ISSUER, NOW)


async def test_a_function_that_fails_is_no_crash() -> None:
    """Whatever it raises, and whatever it says: that may be secret."""

    def fail() -> str:
        raise KeyError("canary")

    with pytest.raises(TokenUnavailable) as caught:
        await PlatformIdentity(fail).parameters(ISSUER, NOW)
    assert "canary" not in str(caught.value)


async def test_a_missing_platform_token_may_come_later(tmp_path: Path) -> None:
    """It is no refusal, and the text does not name the path."""
    with pytest.raises(TokenUnavailable) as caught:
        await PlatformIdentity(tmp_path / "absent").parameters(ISSUER, NOW)
    assert str(tmp_path) not in str(caught.value)
