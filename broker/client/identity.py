"""How an agent proves which workload it is: by its own key, or by its platform's word."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from broker.client.errors import TokenUnavailable
from broker.core.errors import Malformed

ASSERTION_SECONDS: Final = 60
MAX_PLATFORM_TOKEN: Final = 16 * 1024

_JWT_BEARER_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_JWT_BEARER_ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


class Identity(Protocol):
    """Something that the broker takes as proof of who is asking."""

    async def parameters(self, issuer: str, now: float) -> Mapping[str, str]:
        """Return the form parameters that name the grant and prove the identity, for one request at ``now``.

        They are fresh for every request: an assertion may be used once only. Raises ``TokenUnavailable`` if the proof
        cannot be had now.
        """
        ...


@dataclass(frozen=True, slots=True)
class KeyIdentity:
    """An agent that is registered with the broker under ``name`` with the public half of ``private_key``.

    It authenticates by ``private_key_jwt`` (RFC 7523): a statement signed with the key, for this broker only, good for
    60 seconds and for one use. Keys: EC P-256 or P-384, RSA of at least 2048 bits, or Ed25519.
    """

    name: str
    private_key: PrivateKeyTypes = field(repr=False)
    _algorithm: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse a key that the broker would refuse. Raises ``Malformed``."""
        object.__setattr__(self, "_algorithm", _algorithm(self.private_key))

    @classmethod
    def from_file(cls, name: str, path: Path | str, password: bytes | None = None) -> KeyIdentity:
        """Read the private key from a PEM file. Raises ``OSError``, or ``Malformed`` if it is no private key."""
        pem = Path(path).read_bytes()
        try:
            return cls(name, load_pem_private_key(pem, password))
        except (ValueError, TypeError) as error:
            raise Malformed("private_key: not a PEM private key, or not with this password") from error

    async def parameters(self, issuer: str, now: float) -> Mapping[str, str]:
        """Return a ``client_credentials`` request with a fresh client assertion."""
        claims = {
            "iss": self.name,
            "sub": self.name,
            "aud": issuer,
            "iat": int(now),
            "exp": int(now) + ASSERTION_SECONDS,
            "jti": secrets.token_urlsafe(24),
        }
        headers = {"typ": "client-authentication+jwt"}
        key = _usable(self.private_key)
        return {
            "grant_type": "client_credentials",
            "client_assertion_type": _JWT_BEARER_ASSERTION,
            "client_assertion": jwt.encode(claims, key, algorithm=self._algorithm, headers=headers),
        }


@dataclass(frozen=True, slots=True)
class PlatformIdentity:
    """A workload that its platform vouches for, by a token such as a projected Kubernetes service account token.

    ``source`` is the file that the platform keeps the token in, or a function that returns it. It is read again for
    every request, in a thread, so a token that the platform has replaced is picked up.
    """

    source: Path | str | Callable[[], str] = field(repr=False)

    async def parameters(self, issuer: str, now: float) -> Mapping[str, str]:  # noqa: ARG002 - the platform has said for whom and when
        """Return a ``jwt-bearer`` request with the platform's token as it is now."""
        try:
            token = (await asyncio.to_thread(self._read)).strip()
        except Exception as error:
            # The caller's own function may raise anything; what it says may be secret.
            raise TokenUnavailable("the platform's token cannot be read") from error
        if not 0 < len(token) <= MAX_PLATFORM_TOKEN or not token.isascii() or not token.isprintable():
            raise TokenUnavailable("the platform's token is empty, too long or not a token")
        return {"grant_type": _JWT_BEARER_GRANT, "assertion": token}

    def _read(self) -> str:
        if callable(self.source):
            return self.source()
        with Path(self.source).open("rb") as file:
            return file.read(MAX_PLATFORM_TOKEN + 2).decode()


def _usable(key: PrivateKeyTypes) -> PrivateKey:
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        raise Malformed("private_key: use EC P-256 or P-384, RSA, or Ed25519")
    return key


def _algorithm(key: PrivateKeyTypes) -> str:
    match key:
        case ec.EllipticCurvePrivateKey() if isinstance(key.curve, ec.SECP256R1):
            return "ES256"
        case ec.EllipticCurvePrivateKey() if isinstance(key.curve, ec.SECP384R1):
            return "ES384"
        case rsa.RSAPrivateKey() if key.key_size >= 2048:  # noqa: PLR2004 - RFC 7518, 3.3
            return "RS256"
        case ed25519.Ed25519PrivateKey():
            return "EdDSA"
        case _:
            raise Malformed("private_key: use EC P-256 or P-384, RSA of at least 2048 bits, or Ed25519")
