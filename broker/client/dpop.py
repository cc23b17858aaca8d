"""The agent's side of proof of possession (RFC 9449): a key, the proofs it makes, and the nonces servers ask for."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from broker.core import base64url
from broker.core.errors import Malformed
from broker.core.jwk import public_jwk, thumbprint

MAX_ORIGINS: Final = 1_000
MAX_NONCE: Final = 256


class DpopKey:
    """A key that tokens are bound to. Its private half never leaves the process, and is not shown by ``repr``."""

    def __init__(self, private_key: ec.EllipticCurvePrivateKey) -> None:
        """Take an EC P-256 key. Raises ``Malformed`` for another curve."""
        if not isinstance(private_key.curve, ec.SECP256R1):
            raise Malformed("dpop: the key must be EC P-256")
        self._private_key = private_key
        self._jwk = public_jwk(private_key.public_key())
        self.thumbprint = thumbprint(self._jwk)
        """RFC 7638 thumbprint of the public key: the ``jkt`` of the tokens bound to it."""

    @classmethod
    def generate(cls) -> DpopKey:
        """Make a key that lives in this process only."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    def proof(
        self, method: str, url: str, *, now: float, access_token: str | None = None, nonce: str | None = None
    ) -> str:
        """Return a proof for one request at ``now`` (Unix seconds), to be sent in the ``DPoP`` header once.

        ``access_token`` is the token it goes with; without it, the proof is for the token endpoint.
        """
        claims: dict[str, Any] = {
            "jti": secrets.token_urlsafe(24),
            "htm": method.upper(),
            "htu": _without_query(url),
            "iat": int(now),
        }
        if access_token is not None:
            claims["ath"] = base64url.encode(hashlib.sha256(access_token.encode()).digest())
        if nonce is not None:
            claims["nonce"] = nonce
        headers = {"typ": "dpop+jwt", "jwk": self._jwk}
        return jwt.encode(claims, self._private_key, algorithm="ES256", headers=headers)

    def __repr__(self) -> str:
        """Name the key by its public thumbprint."""
        return f"DpopKey({self.thumbprint!r})"


class Nonces:
    """The latest nonce that each origin gave; at most :data:`MAX_ORIGINS` of them."""

    def __init__(self) -> None:
        """Start with none."""
        self._nonces: OrderedDict[str, str] = OrderedDict()

    def of(self, url: str) -> str | None:
        """Return the nonce to use with ``url``, if its origin gave one."""
        return self._nonces.get(_origin(url))

    def remember(self, url: str, nonce: str | None) -> bool:
        """Take the ``DPoP-Nonce`` that came with an answer from ``url``; whether it is a new one."""
        if nonce is None or not 0 < len(nonce) <= MAX_NONCE or self.of(url) == nonce:
            return False
        self._nonces[_origin(url)] = nonce
        self._nonces.move_to_end(_origin(url))
        if len(self._nonces) > MAX_ORIGINS:
            self._nonces.popitem(last=False)
        return True


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}".lower()


def _without_query(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path or "/", "", ""))
