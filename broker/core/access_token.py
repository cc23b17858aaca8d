"""Verifying the broker's own access tokens (RFC 9068): the one path that the broker and every resource server share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from broker.core.claims import AccessClaims, ClaimsError, parse_claims
from broker.core.jwk import KeySet
from broker.core.jwt import ACCESS_TOKEN, SKEW, InvalidToken, Row, parse, verify_with_key
from broker.core.selector import Fact

_ENDED: Final = replace(ACCESS_TOKEN, expires=False)


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """An access token with a good signature. ``kid`` is the thumbprint of its key; ``facts`` is what selectors match.

    Whether it was revoked is not known yet.
    """

    claims: AccessClaims
    kid: str
    facts: frozenset[Fact]


def verify_access_token(
    token: str, keys: KeySet, *, issuer: str, audience: str | None, now: float, skew: float = 0
) -> VerifiedToken:
    """Verify an access token completely, all but revocation.

    ``audience`` is the one resource it must be for; None leaves that comparison to the caller. ``skew`` is how many
    seconds after ``exp`` it is still good: none by default, since its end was promised to whoever looks at a kill.
    Raises ``InvalidToken``.
    """
    return _verify(token, ACCESS_TOKEN, keys, issuer, audience, now, skew)


def verify_ended_token(token: str, keys: KeySet, *, issuer: str, now: float) -> VerifiedToken:
    """Verify an access token that may have expired, for any audience, to revoke it (RFC 7009).

    Raises ``InvalidToken``.
    """
    return _verify(token, _ENDED, keys, issuer, None, now, 0)


def _verify(
    token: str, row: Row, keys: KeySet, issuer: str, audience: str | None, now: float, grace: float
) -> VerifiedToken:
    audiences = None if audience is None else (audience,)
    verified = verify_with_key(
        parse(token), row, keys, issuer=issuer, audiences=audiences, now=now, skew=SKEW, grace=grace
    )
    try:
        claims = parse_claims(verified.claims)
    except ClaimsError as error:
        raise InvalidToken("claims") from error
    return VerifiedToken(claims, verified.key.thumbprint, claims.facts(verified.key.thumbprint))
