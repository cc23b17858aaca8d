"""Proof that whoever redeems an enrolment code holds the private key that is to be registered.

A JWT signed with that key, for this broker and this code alone: a proof that somebody else made, or that was made for
another code, is worth nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from broker.core import base64url
from broker.core.jwk import parse_jwk
from broker.core.jwt import CLIENT_ASSERTION, Audience, InvalidToken, Row, parse, verify

TYPE: Final = "broker-enrollment+jwt"
MAX_LIFETIME: Final = 300
"""Seconds between ``iat`` and ``exp`` of a proof, at most."""

ENROLLMENT_PROOF: Final = Row(
    name="enrolment proof",
    types=frozenset({TYPE}),
    typ_required=True,
    algorithms=CLIENT_ASSERTION.algorithms,
    audience=Audience.SOLE,
    required=("iat", "jti"),
    max_lifetime=MAX_LIFETIME,
    names_issuer=False,
)
"""Its row in the table of inbound JWTs (protocol sheet B.3)."""


def code_id(code: str) -> str:
    """Return the ``jti`` of a proof for this code: its SHA-256 digest, which does not give the code away."""
    return base64url.encode(hashlib.sha256(code.encode("utf-8", "surrogatepass")).digest())


def check_enrollment_proof(proof: str, jwk: Mapping[str, Any], *, code: str, audience: str, now: float) -> None:
    """Verify that ``proof`` is signed with the key in ``jwk``, for ``audience`` and ``code``, and good at ``now``.

    Raises :class:`InvalidToken`; ``JWKError`` if ``jwk`` is no public key.
    """
    claims = verify(parse(proof), ENROLLMENT_PROOF, parse_jwk(jwk), issuer=None, audiences=(audience,), now=now)
    if claims["jti"] != code_id(code):
        raise InvalidToken("claims")
