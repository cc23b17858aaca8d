"""Key files: private keys that only their owner may read, and public keys to register."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from broker.cli.outcome import Failure, unusable
from broker.core.jwk import JWKError, parse_jwk, public_jwk

MAX_FILE: Final = 64 * 1024
PrivateKey = EllipticCurvePrivateKey | RSAPrivateKey | Ed25519PrivateKey


def load_private_key(path: Path) -> PrivateKey:
    """Read a private key (PEM, not encrypted). Raises ``Failure`` if it is missing, exposed, or not such a key."""
    data = _read(path, owner_only=True)
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # No word of the cause: it may quote the file.
        raise unusable(f"{path}: is not a private key in PEM, without a pass phrase", "key_unusable") from error
    if not isinstance(key, EllipticCurvePrivateKey | RSAPrivateKey | Ed25519PrivateKey):
        raise unusable(f"{path}: must be an EC, RSA or Ed25519 key", "key_unusable")
    return key


def load_public_jwk(path: Path) -> dict[str, Any]:
    """Read a public key, as PEM or as a JWK in JSON. Raises ``Failure``, also for a private key: it must not travel."""
    data = _read(path, owner_only=False)
    if b"PRIVATE KEY" in data:
        raise unusable(
            f"{path}: holds a private key; give the public one (openssl pkey -in FILE -pubout)", "key_unusable"
        )
    try:
        jwk = json.loads(data) if data.lstrip().startswith(b"{") else public_jwk(_public_key(data))
        parse_jwk(jwk)
    except (JWKError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        why = str(error) if isinstance(error, JWKError) else "is not a public key in PEM or a JWK in JSON"
        raise unusable(f"{path}: {why}", "key_unusable") from error
    return dict(jwk)


def create_private_key(path: Path) -> PrivateKey:
    """Make a P-256 key and write it to a new file, durably, that only its owner may read. Raises ``Failure``."""
    key = generate_private_key(SECP256R1())
    write_new(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key


def signing_algorithm(key: PrivateKey) -> str:
    """Return the JWS algorithm to sign with. Raises ``Failure`` for a key that the broker takes none of."""
    match key:
        case EllipticCurvePrivateKey(curve=SECP256R1()):
            return "ES256"
        case EllipticCurvePrivateKey(curve=SECP384R1()):
            return "ES384"
        case RSAPrivateKey():
            return "RS256"
        case Ed25519PrivateKey():
            return "EdDSA"
        case EllipticCurvePrivateKey():
            raise unusable(f"the key's curve is {key.curve.name}; use P-256 or P-384", "key_unusable")


def write_new(path: Path, data: bytes) -> None:
    """Write a new file of mode 0600, durably. Raises ``Failure``, and never touches a file that exists."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _unreadable(path, "created", error) from error


def _public_key(data: bytes) -> Any:  # noqa: ANN401 - public_jwk judges what kind of key it is
    return load_pem_public_key(data)


def _read(path: Path, *, owner_only: bool) -> bytes:
    try:
        # Not blocking, so that a named pipe cannot hang the command; what is checked is what was opened.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if owner_only:
                _refuse_exposed(status, path)
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise _unreadable(path, "read", error) from error
    if len(data) > MAX_FILE:
        raise unusable(f"{path}: is longer than {MAX_FILE} bytes", "key_unusable")
    return data


def _refuse_exposed(status: os.stat_result, path: Path) -> None:
    if os.name == "posix" and stat.S_ISREG(status.st_mode) and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = stat.S_IMODE(status.st_mode)
        raise unusable(f"{path}: mode {mode:04o} lets others read this private key; chmod 600 it", "key_exposed")


def _unreadable(path: Path, what: str, error: OSError) -> Failure:
    return unusable(f"{path}: cannot be {what} ({error.strerror})", "file_unusable")
