"""Identity tokens: signed, and then checked the way everybody will who trusts the broker as an OpenID provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from broker.core.errors import Code, Refused, Unavailable
from broker.core.identity_token import IDENTITY_TOKEN, IdentityClaims, own_payload
from broker.core.jwt import MAX_TOKEN, InvalidToken, parse, verify_with_key
from broker.core.secret import Secret
from broker.ports import Clock, Ids, Minted
from broker.signing.keyring import KeyRing

TYP: Final = "JWT"
"""Never the type of an access token: who takes those refuses these, and the other way round."""

_encode: Final = msgspec.json.Encoder().encode


class IdentityTokenSigner:
    """Signs identity tokens with the key that is active now (port ``IdentitySigner``)."""

    def __init__(self, ring: KeyRing, clock: Clock, ids: Ids, *, issuer: str) -> None:
        """``issuer`` is the broker's public URL; a token that names another one does not pass the check."""
        self._ring = ring
        self._clock = clock
        self._ids = ids
        self._issuer = issuer

    def mint_checked(self, claims: IdentityClaims, now: float) -> Minted:
        """Sign the claims, and verify what came of it as of ``now`` (Unix seconds).

        Raises ``Unavailable`` (``INTERNAL``) if there is no key to sign with, or if the token is not exactly what was
        meant, and ``Refused`` (``TOO_LARGE``) if nobody would read a token that says so much.
        """
        return self._signed(claims.to_payload(), now)

    async def own_token(self, audience: str) -> Secret:
        """Return an identity token of the broker itself, with which it signs in at ``audience``.

        It stays in memory and is given to no agent, so nothing records it. Raises as :meth:`mint_checked`.
        """
        now = self._clock.now()
        payload = own_payload(issuer=self._issuer, audience=audience, jti=self._ids.new("idt"), now=now)
        return Secret(self._signed(payload, now).token)

    def _signed(self, payload: Mapping[str, Any], now: float) -> Minted:
        key = self._ring.signer(now)
        token = key.jwt(TYP, _encode(payload))
        if len(token) > MAX_TOKEN:
            raise Refused(Code.TOO_LARGE, f"the identity token would be longer than {MAX_TOKEN} characters")
        self._check(Minted(token, key.kid), payload, now)
        return Minted(token, key.kid)

    def _check(self, minted: Minted, payload: Mapping[str, Any], now: float) -> None:
        """Verify our own output with the published keys, and compare every claim with what was meant."""
        keys, audiences = self._ring.verification_keys(now), (payload["aud"],)
        try:
            verified = verify_with_key(
                parse(minted.token), IDENTITY_TOKEN, keys, issuer=self._issuer, audiences=audiences, now=now, skew=0
            )
        except InvalidToken as error:
            raise _unfit() from error
        if verified.key.thumbprint != minted.kid or verified.claims != payload:
            raise _unfit()


def _unfit() -> Unavailable:
    text = "an identity token was made that does not pass the broker's own check; nothing was issued"
    return Unavailable(Code.INTERNAL, text)
