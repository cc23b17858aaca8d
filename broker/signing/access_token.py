"""Access tokens (RFC 9068): signed, and then checked the way everybody else will check them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

import msgspec

from broker.core.access_token import verify_access_token
from broker.core.claims import AccessClaims
from broker.core.errors import Code, Refused, Unavailable
from broker.core.jwt import MAX_TOKEN, InvalidToken
from broker.ports import Clock, Minted
from broker.signing.keyring import KeyRing

TYP: Final = "at+jwt"

P = ParamSpec("P")
T = TypeVar("T")

_encode: Final = msgspec.json.Encoder().encode


class AccessTokenSigner:
    """Signs access tokens with the key that is active now (port ``Signer``)."""

    def __init__(self, ring: KeyRing, clock: Clock, *, issuer: str) -> None:
        """``issuer`` is the broker's public URL; a token that names another one does not pass the check."""
        self._ring = ring
        self._clock = clock
        self._issuer = issuer
        self._round: list[tuple[AccessClaims, float, asyncio.Future[Minted]]] = []

    async def mint_checked(self, claims: AccessClaims, now: float) -> Minted:
        """Sign and check the claims, together with all others that are waiting.

        What one turn of the event loop asks for is done in one round, first all signatures and then all checks: between
        other work each would find the tables of its elliptic curve driven out of the processor's cache, and take two to
        four times as long.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Minted] = loop.create_future()
        if not self._round:
            loop.call_soon(self._make_round)
        self._round.append((claims, now, answer))
        return await answer

    def kid(self) -> str:
        """Return the id of the key that the next token is signed with. Raises ``Unavailable`` if there is none."""
        return self._ring.signing_kid(self._clock.now())

    def mint(self, claims: AccessClaims) -> Minted:
        """Sign the claims.

        Raises ``Unavailable`` (``INTERNAL``) if there is no key to sign with, and ``Refused`` (``TOO_LARGE``) if nobody
        would read a token that says so much.
        """
        key = self._ring.signer(self._clock.now())
        token = key.jwt(TYP, _encode(claims.to_payload()))
        if len(token) > MAX_TOKEN:
            text = f"the token would be longer than {MAX_TOKEN} characters: ask for fewer scopes or shorter details"
            raise Refused(Code.TOO_LARGE, text)
        return Minted(token, key.kid)

    def _make_round(self) -> None:
        waiting, self._round = self._round, []
        made = [_tried(answer, self.mint, claims) for claims, _, answer in waiting]
        for (claims, now, answer), minted in zip(waiting, made, strict=True):
            if minted is not None:
                _tried(answer, self.check, minted, claims, now)
                if not answer.done():  # else it is unfit, or its caller was cancelled
                    answer.set_result(minted)

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


def _tried(answer: asyncio.Future[Minted], work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T | None:
    """Do one's share of a round. Whatever goes wrong is that one's answer, and does not hold up the others."""
    try:
        return work(*given, **named)
    except Exception as error:  # noqa: BLE001 - every failure is somebody's answer
        if not answer.done():
            answer.set_exception(error)
        return None


def _unfit() -> Unavailable:
    return Unavailable(Code.INTERNAL, "a token was made that does not pass the broker's own check; nothing was issued")
