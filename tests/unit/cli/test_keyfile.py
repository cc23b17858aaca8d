"""Key files: what is read, what is refused, and that new ones are private and never overwrite."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from broker.cli.keyfile import create_private_key, load_private_key, load_public_jwk, signing_algorithm
from broker.cli.outcome import ExitCode, Failure
from broker.core.jwk import public_jwk

KEY = ec.generate_private_key(ec.SECP256R1())


def _private(path: Path, key: PrivateKeyTypes = KEY, mode: int = 0o600, password: bytes | None = None) -> Path:
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    path.chmod(mode)
    return path


def _public(path: Path) -> Path:
    path.write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def _refusal(path: Path, *, public: bool = False) -> Failure:
    with pytest.raises(Failure) as caught:
        load_public_jwk(path) if public else load_private_key(path)
    assert caught.value.exit_code is ExitCode.USAGE
    assert str(path) in caught.value.text
    return caught.value


def test_new_keys_are_private(tmp_path: Path) -> None:
    """A key that is made can be read again, and by its owner alone."""
    path = tmp_path / "a.pem"
    key = create_private_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert public_jwk(load_private_key(path).public_key()) == public_jwk(key.public_key())


def test_new_keys_overwrite_nothing(tmp_path: Path) -> None:
    """Neither a file nor a link that leads elsewhere is written through."""
    there, target, link = tmp_path / "there", tmp_path / "target", tmp_path / "link"
    there.write_text("precious")
    link.symlink_to(target)
    for path in (there, link):
        with pytest.raises(Failure):
            create_private_key(path)
    assert there.read_text() == "precious"
    assert not target.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_exposed_keys_are_refused(tmp_path: Path, mode: int) -> None:
    """A private key that others can read or change is not used, and the text says how to mend it."""
    failure = _refusal(_private(tmp_path / "a.pem", mode=mode))
    assert failure.code == "key_exposed"
    assert "chmod 600" in failure.text


def test_what_is_no_private_key(tmp_path: Path) -> None:
    """Missing files, other text, encrypted keys, keys of other kinds and endless files are refused, not quoted."""
    assert _refusal(tmp_path / "missing").code == "file_unusable"
    text = tmp_path / "text"
    text.write_text("my secret text")
    text.chmod(0o600)
    assert "secret" not in _refusal(text).text.replace(str(text), "")
    _refusal(_private(tmp_path / "locked", password=b"horse"))
    _refusal(_private(tmp_path / "dsa", dsa.generate_private_key(2048)))
    long = tmp_path / "long"
    long.write_bytes(b"x" * 100_000)
    long.chmod(0o600)
    _refusal(long)
    _refusal(tmp_path)


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    """A named pipe that nobody writes to is refused at once."""
    path = tmp_path / "pipe"
    os.mkfifo(path, 0o600)
    _refusal(path)


def test_public_keys_are_read_from_pem_and_jwk(tmp_path: Path) -> None:
    """Both forms of one key give the same JWK."""
    jwk = public_jwk(KEY.public_key())
    as_jwk = tmp_path / "a.json"
    as_jwk.write_text(json.dumps(jwk))
    assert load_public_jwk(_public(tmp_path / "a.pub")) == jwk
    assert load_public_jwk(as_jwk) == jwk


def test_private_keys_do_not_travel(tmp_path: Path) -> None:
    """A private key given as a public one is refused, in either form."""
    assert "private" in _refusal(_private(tmp_path / "a.pem"), public=True).text
    jwk = tmp_path / "a.json"
    jwk.write_text(json.dumps({**public_jwk(KEY.public_key()), "d": "AAAA"}))
    assert "private" in _refusal(jwk, public=True).text


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kty": "oct"}', '{"kty": 1}', "-----BEGIN PUBLIC KEY-----\nAAAA\n"])
def test_what_is_no_public_key(tmp_path: Path, text: str) -> None:
    """Anything else is refused with the name of the file."""
    path = tmp_path / "a.pub"
    path.write_text(text)
    _refusal(path, public=True)


def test_algorithms() -> None:
    """Each kind of key signs with the one algorithm that the broker takes from it; other curves are refused."""
    assert signing_algorithm(KEY) == "ES256"
    assert signing_algorithm(ec.generate_private_key(ec.SECP384R1())) == "ES384"
    assert signing_algorithm(rsa.generate_private_key(65537, 2048)) == "RS256"
    assert signing_algorithm(ed25519.Ed25519PrivateKey.generate()) == "EdDSA"
    with pytest.raises(Failure, match="key_unusable"):
        signing_algorithm(ec.generate_private_key(ec.SECP256K1()))
