"""Access tokens (RFC 9068): signed, and then checked the way everybody else will check them."""

from __future__ import annotations

from typing import Final

import msgspec

from broker.core.access_token import verify_access_token
from broker.core.claims import AccessClaims
from broker.core.errors import Code, Unavailable
from broker.core.jwt import InvalidToken
from broker.ports import Clock, Minted
from broker.signing.keyring import KeyRing

TYP: Final = "at+jwt"

_encode: Final = msgspec.json.Encoder().encode


class AccessTokenSigner:
    """Signs access tokens with the key that is active now (port ``Signer``)."""

    def __init__(self, ring: KeyRing, clock: Clock, *, issuer: str) -> None:
        """``issuer`` is the broker's public URL; a token that names another one does not pass the check."""
        self._ring = ring
        self._clock = clock
        self._issuer = issuer

    def kid(self) -> str:
        """Return the id of the key that the next token is signed with. Raises ``Unavailable`` if there is none."""
        return self._ring.signing_kid(self._clock.now())

    def mint(self, claims: AccessClaims) -> Minted:
        """Sign the claims. Raises ``Unavailable`` (``INTERNAL``) if there is no key to sign with."""
        key = self._ring.signer(self._clock.now())
        return Minted(key.jwt(TYP, _encode(claims.to_payload())), key.kid)

    def check(self, minted: Minted, claims: AccessClaims, now: float) -> None:
        """Verify our own output with the published keys, and compare every claim with what was meant.

        Raises ``Unavailable`` (``INTERNAL``) if it is not exactly that; nothing is released then. This catches a fault
        in memory, in a library or in this program before anyone relies on it, and a key that was revoked meanwhile.
        """
        keys = self._ring.verification_keys(now)
        try:
            verified = verify_access_token(
                minted.token, keys, issuer=self._issuer, audience=claims.aud, now=now, skew=0
            )
        except InvalidToken as error:
            raise _unfit() from error
        if verified.kid != minted.kid or verified.claims != claims:
            raise _unfit()


def _unfit() -> Unavailable:
    return Unavailable(Code.INTERNAL, "a token was made that does not pass the broker's own check; nothing was issued")
