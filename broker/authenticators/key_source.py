"""Fetching the keys of one trusted issuer: OpenID Connect discovery, a JWKS, or a SPIFFE bundle."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from broker.core.errors import Code, Unavailable
from broker.core.issuer import TrustedIssuer
from broker.core.jwk import JWKError, KeySet, parse_jwks
from broker.core.strict_json import JSONError, read_json_object
from broker.outbound import Destination, Outbound, Reply

MAX_DOCUMENT: Final = 1024 * 1024
"""Longest discovery document or key set that is read, in bytes."""

SHORTEST_TTL: Final = 60
DEFAULT_TTL: Final = 300
LONGEST_TTL: Final = 3600

_DISCOVERY: Final = "/.well-known/openid-configuration"
_MAX_AGE: Final = re.compile(r"(?:^|[\s,])max-age=\"?(\d{1,9})", re.IGNORECASE)
_NOT_KEPT: Final = re.compile(r"(?:^|[\s,])no-(?:store|cache)(?:$|[\s,;])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A key set, and for how many seconds its publisher says that it is good."""

    keys: KeySet
    ttl: int


class KeySource:
    """Where the keys of one issuer's definition come from."""

    def __init__(self, issuer: TrustedIssuer, outbound: Outbound, *, use: str) -> None:
        """``use`` is the ``use`` that the keys must be marked with, if they are marked at all."""
        self._issuer = issuer
        self._outbound = outbound
        self._use = use
        self._destination = Destination(issuer.allow_http, issuer.allow_private, issuer.ca_file)
        self._located: str | None = issuer.jwks_url or issuer.bundle_url
        self._discovers = self._located is None

    def inline(self) -> KeySet | None:
        """Return the keys that the definition itself holds, or None. Raises ``Unavailable`` if they are no key set."""
        return None if self._issuer.jwks is None else self._parse(self._issuer.jwks)

    async def fetch(self) -> Fetched:
        """Fetch the keys. Raises ``Unavailable`` (``ISSUER_UNAVAILABLE``)."""
        known = self._located is not None
        try:
            return await self._fetch(self._located if self._located is not None else await self._discover())
        except Unavailable:
            if not (self._discovers and known):
                raise
        return await self._fetch(await self._discover())  # the keys may have moved

    async def _fetch(self, url: str) -> Fetched:
        reply = await self._get(url)
        document = _object(reply)
        return Fetched(self._parse(document), _ttl(reply.headers.get("Cache-Control"), document))

    async def _discover(self) -> str:
        """Return the URL of the issuer's JWKS (OpenID Connect Discovery 1.0, 4)."""
        expected = self._issuer.issuer
        if expected is None:
            raise _unusable("the issuer has no discovery")
        self._located = None
        document = _object(await self._get(expected.rstrip("/") + _DISCOVERY))
        if document.get("issuer") != expected:
            raise _unusable("the discovery document is for another issuer")
        url = document.get("jwks_uri")
        if not isinstance(url, str):
            raise _unusable("the discovery document names no jwks_uri")
        self._located = url
        return url

    async def _get(self, url: str) -> Reply:
        reply = await self._outbound.get(
            url, self._destination, headers={"Accept": "application/json"}, max_bytes=MAX_DOCUMENT
        )
        if reply.status != HTTPStatus.OK:
            raise _unusable(f"the issuer answers {reply.status}")
        return reply

    def _parse(self, document: Mapping[str, Any]) -> KeySet:
        try:
            return parse_jwks(document, use=self._use)
        except JWKError as error:
            raise _unusable("the issuer's key set cannot be read") from error


def _object(reply: Reply) -> dict[str, Any]:
    try:
        return read_json_object(reply.body)
    except JSONError as error:
        raise _unusable("the issuer answers with something that is not a JSON object") from error


def _ttl(cache_control: str | None, document: Mapping[str, Any]) -> int:
    """Return for how long a key set is good: by the bundle's own hint, by HTTP, or by default; within bounds."""
    hint = document.get("spiffe_refresh_hint")
    age = _MAX_AGE.search(cache_control or "")
    ttl = DEFAULT_TTL
    if isinstance(hint, int) and not isinstance(hint, bool):
        ttl = hint
    elif _NOT_KEPT.search(cache_control or ""):
        ttl = SHORTEST_TTL
    elif age is not None:
        ttl = int(age[1])
    return max(SHORTEST_TTL, min(ttl, LONGEST_TTL))


def _unusable(text: str) -> Unavailable:
    return Unavailable(Code.ISSUER_UNAVAILABLE, text, retry_after=5)
