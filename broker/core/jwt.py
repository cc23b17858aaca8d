"""Every JWT from outside is verified here: one table of token kinds, one order of checks (RFC 7519, RFC 8725).

The order is: form, ``typ``, ``alg``, key, signature, times, issuer and audience, identifiers. Whether the token was
revoked or used before is for whoever holds that state.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from jwt.algorithms import get_default_algorithms

from broker.core import base64url
from broker.core.jwk import MAX_KID, KeySet, VerificationKey
from broker.core.strict_json import read_json_object

MAX_TOKEN: Final = 16 * 1024
"""Longest token that is read, in bytes."""

MAX_ID: Final = 512
"""Longest ``sub``, ``jti`` or ``client_id``, in characters."""

SKEW: Final = 30.0
"""By how many seconds the clock of a signer may differ from ours."""

_SHAPE: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_FORBIDDEN_HEADERS: Final = frozenset({"crit", "b64", "zip"})
_SHORT_HEADER: Final = 512  # characters
_MEDIA_TYPE: Final = "application/"


class Audience(Enum):
    """How ``aud`` is compared with the audiences that are ours."""

    CONTAINS = "one of ours is among its members"
    SOLE = "it has one member, and that is ours"
    NONE = "it is not looked at"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is demanded of one kind of token.

    ``types`` are the accepted ``typ`` values, in lower case and without ``application/``. ``required`` are claims that
    must be present besides ``exp``; those that are identifiers must be text. ``max_lifetime`` is from ``iat`` (or from
    now, without one) to ``exp``; ``max_ahead`` from now to ``exp``; both in seconds. ``expires`` says whether ``exp``
    must be there, ``names_issuer`` whether ``iss`` must be the expected one.
    """

    name: str
    types: frozenset[str]
    typ_required: bool
    algorithms: frozenset[str]
    audience: Audience
    required: tuple[str, ...] = ()
    max_lifetime: int | None = None
    max_ahead: int | None = None
    expires: bool = True
    names_issuer: bool = True


_OWN_ALGORITHMS: Final = frozenset({"ES256", "RS256", "EdDSA"})
_CLIENT_ALGORITHMS: Final = frozenset({"ES256", "ES384", "RS256", "PS256", "EdDSA", "Ed25519"})

ACCESS_TOKEN: Final = Row(
    name="access token",
    types=frozenset({"at+jwt"}),
    typ_required=True,
    algorithms=_OWN_ALGORITHMS,
    audience=Audience.SOLE,
    required=("iat", "sub", "jti", "client_id"),
)
"""Our own access tokens (RFC 9068)."""

RULES_SNAPSHOT: Final = Row(
    name="rules snapshot",
    types=frozenset({"broker-rules+jwt"}),
    typ_required=True,
    algorithms=_OWN_ALGORITHMS,
    audience=Audience.NONE,
    required=("iat",),
)
"""The list of live revocation rules, signed by the broker."""

RULE_STATEMENT: Final = Row(
    name="rule statement",
    types=frozenset({"broker-rule+jwt"}),
    typ_required=True,
    algorithms=_OWN_ALGORITHMS,
    audience=Audience.NONE,
    required=("iat",),
)
"""One revocation rule, as the feed tells of it."""

HEARTBEAT: Final = Row(
    name="heartbeat",
    types=frozenset({"broker-heartbeat+jwt"}),
    typ_required=True,
    algorithms=_OWN_ALGORITHMS,
    audience=Audience.NONE,
    required=("iat",),
)
"""That the feed has told of every rule up to an epoch."""

CLIENT_ASSERTION: Final = Row(
    name="client assertion",
    types=frozenset({"jwt", "client-authentication+jwt"}),
    typ_required=False,
    algorithms=_CLIENT_ALGORITHMS,
    audience=Audience.SOLE,
    required=("sub", "jti"),
    max_ahead=300,
)
"""``private_key_jwt`` of a registered agent (RFC 7523)."""

PLATFORM_TOKEN: Final = Row(
    name="platform token",
    types=frozenset({"jwt"}),
    typ_required=False,
    algorithms=_CLIENT_ALGORITHMS,
    audience=Audience.CONTAINS,
    required=("sub",),
    max_lifetime=24 * 3600,
)
"""A token of a trusted issuer, whose definition replaces the algorithms and the lifetime."""

SPIFFE_SVID: Final = Row(
    name="JWT-SVID",
    types=frozenset({"jwt", "jose"}),
    typ_required=False,
    algorithms=frozenset({"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"}),
    audience=Audience.CONTAINS,
    required=("sub",),
    max_lifetime=24 * 3600,
    names_issuer=False,
)
"""A SPIFFE JWT-SVID: no ``iss``, no ``jti``; the subject names the trust domain."""

DPOP_PROOF: Final = Row(
    name="DPoP proof",
    types=frozenset({"dpop+jwt"}),
    typ_required=True,
    algorithms=frozenset({"ES256", "RS256"}),
    audience=Audience.NONE,
    required=("jti", "htm", "htu", "iat"),
    expires=False,
    names_issuer=False,
)
"""A proof of possession (RFC 9449), signed with the key in its own header."""

_TEXTS: Final = ("iss", "sub", "jti", "client_id")
_TEXT: Final = {
    "malformed": "the token is not a well-formed JWT",
    "typ": "the token is of another type",
    "alg": "the token's algorithm is not accepted here",
    "kid": "the token names no known key",
    "signature": "the signature is not good",
    "expired": "the token has expired",
    "not_yet_valid": "the token is not valid yet",
    "lifetime": "the token lives too long",
    "issuer": "the token is of another issuer",
    "audience": "the token is for another audience",
    "claims": "the token lacks a claim, or a claim has the wrong form",
    "subject": "the token's subject is not one of its issuer",
    "agent": "the token names no known agent",
    "use": "a token of this kind is not accepted in this place",
}

_VERIFIERS: Final = {
    name: algorithm
    for name, algorithm in get_default_algorithms().items()
    if name in {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}
_VERIFIERS["Ed25519"] = _VERIFIERS["EdDSA"]


class InvalidToken(ValueError):
    """The token is not good. ``why`` is one stable word for logs and metrics; the text is safe to show."""

    def __init__(self, why: str) -> None:
        """``why`` is malformed, typ, alg, kid, signature, expired, not_yet_valid, lifetime, issuer, audience or claims.

        Whoever reads the claims of a verified token may add: subject, agent, use.
        """
        super().__init__(_TEXT[why])
        self.why = why


@dataclass(frozen=True, slots=True)
class Unverified:
    """A token that has the form of one. Nothing that it says is known to be true."""

    header: Mapping[str, Any] = field(repr=False)
    payload: Mapping[str, Any] = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    def names(self, claim: str) -> str | None:
        """Return the text that an unverified claim holds, or None; good for choosing whom to ask, no more."""
        value = self.payload.get(claim)
        return value if isinstance(value, str) else None


@dataclass(frozen=True, slots=True)
class Verified:
    """The claims of a token that passed every check of its row, and the key that signed it."""

    claims: Mapping[str, Any] = field(repr=False)
    key: VerificationKey


def parse(token: str, *, max_bytes: int = MAX_TOKEN) -> Unverified:
    """Take a token apart (check 1). Raises :class:`InvalidToken` (``malformed``); its cost is bounded by its length."""
    shape = _SHAPE.fullmatch(token) if len(token) <= max_bytes else None
    if shape is None:
        raise InvalidToken("malformed")
    header_part, payload_part, signature_part = shape.groups()
    try:
        header = _known_header(header_part) if len(header_part) <= _SHORT_HEADER else _header(header_part)
        payload = read_json_object(base64url.decode(payload_part))
        signature = base64url.decode(signature_part)
    except ValueError as error:
        raise InvalidToken("malformed") from error
    return Unverified(header, payload, token[: shape.end(2)].encode("ascii"), signature)


def verify(
    token: Unverified,
    row: Row,
    keys: VerificationKey | KeySet,
    *,
    issuer: str | None,
    audiences: Collection[str] | None,
    now: float,
    skew: float = SKEW,
) -> Mapping[str, Any]:
    """Return the claims of a good token; see :func:`verify_with_key`."""
    return verify_with_key(token, row, keys, issuer=issuer, audiences=audiences, now=now, skew=skew).claims


def verify_with_key(  # noqa: PLR0913 - each is one part of the question, passed by name
    token: Unverified,
    row: Row,
    keys: VerificationKey | KeySet,
    *,
    issuer: str | None,
    audiences: Collection[str] | None,
    now: float,
    skew: float = SKEW,
    grace: float | None = None,
) -> Verified:
    """Verify a token completely (checks 2 to 8) and return its claims, with the key that signed it.

    ``keys`` are those of the one issuer that the token may be of. ``audiences`` are ours; None leaves the comparison,
    but not the form, to the caller. ``skew`` is how far (seconds) the signer's clock may be ahead, and how long after
    ``exp`` a token is still good, unless ``grace`` says that otherwise. Raises :class:`InvalidToken`.
    """
    alg = _accepted_algorithm(token, row)
    key = _key(token, alg, keys)
    if not _VERIFIERS[alg].verify(token.signed, key.key, token.signature):
        raise InvalidToken("signature")
    claims = token.payload
    _check_times(claims, row, now, skew, skew if grace is None else grace)
    if row.names_issuer and (issuer is None or claims.get("iss") != issuer):
        raise InvalidToken("issuer")
    if row.audience is not Audience.NONE:
        _check_audience(claims.get("aud"), row, audiences)
    _check_identifiers(claims, row)
    return Verified(claims, key)


def _accepted_algorithm(token: Unverified, row: Row) -> str:
    if not _is_type(token.header, row):
        raise InvalidToken("typ")
    alg = token.header.get("alg")
    if not isinstance(alg, str) or alg not in row.algorithms or alg not in _VERIFIERS:
        raise InvalidToken("alg")
    return alg


def _header(part: str) -> Mapping[str, Any]:
    header = read_json_object(base64url.decode(part))
    if not _FORBIDDEN_HEADERS.isdisjoint(header):
        raise InvalidToken("malformed")
    return MappingProxyType(header)


_known_header: Final = lru_cache(maxsize=128)(_header)  # the tokens of one signer share their header, byte for byte


def _is_type(header: Mapping[str, Any], row: Row) -> bool:
    typ = header.get("typ")
    if typ is None:
        return not row.typ_required and "typ" not in header
    if not isinstance(typ, str) or not typ.isascii():
        return False
    return typ in row.types or typ.lower().removeprefix(_MEDIA_TYPE) in row.types


def _key(token: Unverified, alg: str, keys: VerificationKey | KeySet) -> VerificationKey:
    kid = token.header.get("kid")
    if kid is not None and (not isinstance(kid, str) or not 0 < len(kid) <= MAX_KID):
        raise InvalidToken("kid")
    key = keys.find(kid, alg) if isinstance(keys, KeySet) else keys
    if key is None:
        raise InvalidToken("kid")
    if alg not in key.algorithms:
        raise InvalidToken("alg")
    return key


def _check_times(claims: Mapping[str, Any], row: Row, now: float, skew: float, grace: float) -> None:
    iat, nbf, exp = _time(claims, "iat"), _time(claims, "nbf"), _time(claims, "exp")
    if row.expires:
        if exp is None:
            raise InvalidToken("claims")
        if exp <= now - grace:
            raise InvalidToken("expired")
        if row.max_ahead is not None and exp > now + row.max_ahead + skew:
            raise InvalidToken("lifetime")
        if row.max_lifetime is not None and exp - (now if iat is None else iat) > row.max_lifetime:
            raise InvalidToken("lifetime")
    if (nbf is not None and nbf > now + skew) or (iat is not None and iat > now + skew):
        raise InvalidToken("not_yet_valid")


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise InvalidToken("claims")
    return value


def _check_audience(aud: object, row: Row, audiences: Collection[str] | None) -> None:
    members = [aud] if isinstance(aud, str) else aud
    if not isinstance(members, list) or not members or not all(isinstance(member, str) for member in members):
        raise InvalidToken("audience")
    if row.audience is Audience.SOLE and len(members) != 1:
        raise InvalidToken("audience")
    if audiences is not None and not any(member in audiences for member in members):
        raise InvalidToken("audience")


def _check_identifiers(claims: Mapping[str, Any], row: Row) -> None:
    for name in row.required:
        if name not in claims:
            raise InvalidToken("claims")
    for name in _TEXTS:
        value = claims.get(name)
        if value is None and name not in claims:
            continue
        if not isinstance(value, str) or not 0 < len(value) <= MAX_ID or not value.isprintable():
            raise InvalidToken("claims")
