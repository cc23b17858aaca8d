"""Whether an access token is good right now: signature, issuer, audience, expiry, revocation."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from broker.core.access_token import VerifiedToken, verify_access_token, verify_ended_token
from broker.core.errors import BrokerError, Code
from broker.core.jwk import KeySet
from broker.core.jwt import InvalidToken
from broker.core.rules import Rule, RuleIndex

MAX_REMEMBERED: Final = 10_000


class TokenCheck:
    """Checks the broker's access tokens against the current keys and rules.

    A token whose signature was verified once is remembered by its digest until it expires, so that asking again costs
    no signature. Keys, expiry, audience and rules are looked at every time.
    """

    def __init__(
        self, *, issuer: str, keys: Callable[[], KeySet], rules: Callable[[], RuleIndex], first_hand: bool = False
    ) -> None:
        """``keys`` and ``rules`` return what is in force at the moment of a check.

        ``first_hand`` says that ``rules`` come from the ledger itself, so that no token can be of a later epoch. A view
        that follows the broker's may be a moment behind the tokens that it sees.
        """
        self._first_hand = first_hand
        self._issuer = issuer
        self._keys = keys
        self._rules = rules
        self._verified: OrderedDict[bytes, VerifiedToken] = OrderedDict()

    def check(self, token: str, now: float, audience: str | None) -> VerifiedToken:
        """Return the token if it is good for ``audience`` at ``now`` (Unix seconds); None is any audience.

        Raises ``BrokerError`` with ``TOKEN_INVALID``, ``TOKEN_AUDIENCE``, ``TOKEN_EXPIRED`` or ``TOKEN_REVOKED``.
        """
        verified = self._verify(token, now)
        claims = verified.claims
        if audience is not None and claims.aud != audience:
            raise BrokerError(Code.TOKEN_AUDIENCE, "the token is for another resource")
        if claims.exp <= now:
            raise BrokerError(Code.TOKEN_EXPIRED, "the token has expired")
        if self.killer(verified) is not None:
            raise BrokerError(Code.TOKEN_REVOKED, "the token has been revoked")
        if self._first_hand and claims.epoch > self._rules().epoch:
            # An older ledger was restored. Rules of this one could never end a token of a later epoch.
            raise BrokerError(Code.TOKEN_INVALID, "the token is of an epoch that this broker has not reached")
        return verified

    def read(self, token: str, now: float) -> VerifiedToken | None:
        """Return what a token says that the broker did sign, though it may have ended or been revoked; None otherwise.

        For telling *why* a token is no good, to those who may know; never for accepting one.
        """
        try:
            return verify_ended_token(token, self._keys(), issuer=self._issuer, now=now)
        except InvalidToken:
            return None

    def killer(self, verified: VerifiedToken) -> Rule | None:
        """Return a rule that kills the token, or None if it lives."""
        return self._rules().killer(verified.facts, verified.claims.epoch)

    def _verify(self, token: str, now: float) -> VerifiedToken:
        keys = self._keys()
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._verified.get(digest)
        if known is not None and known.kid in keys:
            self._verified.move_to_end(digest)
            return known
        try:
            verified = verify_access_token(token, keys, issuer=self._issuer, audience=None, now=now)
        except InvalidToken as error:
            code = Code.TOKEN_EXPIRED if error.why == "expired" else Code.TOKEN_INVALID
            text = "the token has expired" if error.why == "expired" else "the token is not a valid access token"
            raise BrokerError(code, text) from error
        self._verified[digest] = verified
        if len(self._verified) > MAX_REMEMBERED:
            self._verified.popitem(last=False)
        return verified
