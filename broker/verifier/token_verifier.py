"""What every way of checking a request's token has in common: signature, audience, expiry, proof, scopes, in order."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

from broker.core.access_token import VerifiedToken
from broker.core.claims import AccessClaims
from broker.core.dpop import MAX_REMEMBERED
from broker.core.errors import BrokerError, Code
from broker.core.jwt import InvalidToken
from broker.core.pacing import Timing
from broker.core.rules import RuleIndex
from broker.core.token_check import TokenCheck
from broker.verifier.broker_keys import BrokerKeys
from broker.verifier.presented import BEARER, DPOP, Headers, Presented, presented
from broker.verifier.proving import Proofs

MAX_PROOFS: Final = MAX_REMEMBERED


@dataclass(frozen=True, slots=True)
class Verified:
    """A token that is good right now, for this resource. ``kid`` is the thumbprint of the key that signed it."""

    claims: AccessClaims
    kid: str

    @property
    def agent(self) -> str:
        """The agent that acts now."""
        return self.claims.client_id

    @property
    def subject(self) -> str:
        """The agent on whose behalf it acts: the same one, unless the token was handed on."""
        return self.claims.sub

    @property
    def actors(self) -> tuple[str, ...]:
        """Everybody whose hands a token that was handed on went through, the one who acts now first (RFC 8693, 4.1)."""
        return self.claims.agents

    @property
    def task(self) -> str:
        """The task that the token belongs to."""
        return self.claims.task

    @property
    def scopes(self) -> tuple[str, ...]:
        """What it may do, in order."""
        return self.claims.scopes


class TokenVerifier(ABC):
    """Checks the tokens of requests for one resource. Belongs to one event loop."""

    def __init__(  # noqa: PLR0913 - each is a setting or a part of its own, passed by name
        self,
        issuer: str,
        audience: str,
        *,
        keys: BrokerKeys,
        rules: Callable[[], RuleIndex],
        public_url: str | None,
        resource_metadata: str | None,
        max_proofs: int,
        timing: Timing,
    ) -> None:
        """``keys`` are the broker's, ``rules`` those that are known here. The rest is as in :class:`Verifier`."""
        self.issuer = issuer
        self.audience = audience
        self.resource_metadata = resource_metadata
        self._public_url = _public_url(public_url, audience)
        self._timing = timing
        self._keys = keys
        self._check = TokenCheck(issuer=issuer, keys=lambda: keys.current, rules=rules)
        self._proofs = Proofs(timing.wall(), max_proofs)

    @abstractmethod
    async def start(self) -> None:
        """Begin whatever goes on in the background."""

    @abstractmethod
    async def close(self) -> None:
        """End it, and close all connections. Every token is refused from now on."""

    @abstractmethod
    async def _assure(self, token: str, verified: VerifiedToken) -> None:
        """Raise ``BrokerError`` unless it is known now that a token was not revoked, whose signature is good."""

    @abstractmethod
    def _require_contact(self) -> None:
        """Raise ``Unavailable`` (``VIEW_STALE``) if the broker is out of reach, so that a key may as well be new."""

    async def __aenter__(self) -> Self:
        """Start, as :meth:`start` does."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    async def verify(
        self,
        token: str,
        *,
        scopes: Iterable[str] = (),
        method: str | None = None,
        url: str | None = None,
        proof: str | None = None,
    ) -> Verified:
        """Return what a token says, if it is good now, for this resource, and has all of ``scopes``.

        A token that is bound to a key needs its DPoP ``proof``, and the ``method`` and public ``url`` of the request
        that it came with; a token that is not must come without one. Raises ``BrokerError``: ``TOKEN_INVALID``,
        ``TOKEN_EXPIRED``, ``TOKEN_AUDIENCE``, ``TOKEN_REVOKED``, ``PROOF_INVALID``, ``PROOF_REPLAYED``,
        ``RATE_LIMITED`` (too many proofs), ``INSUFFICIENT_SCOPE``, or ``VIEW_STALE``, which is not the token's fault.
        """
        scheme = BEARER if proof is None else DPOP
        return await self._verify(Presented(scheme, token, proof), scopes, method, url)

    async def verify_request(self, headers: Headers, method: str, path: str, *, scopes: Iterable[str] = ()) -> Verified:
        """Check the token of an HTTP request; ``path`` is the request's path as it was sent (percent-encoded).

        Raises what :meth:`verify` raises, and ``TOKEN_MISSING``, ``PROOF_REQUIRED`` or ``MALFORMED_REQUEST``; how to
        answer each of them is told by :func:`broker.verifier.answer`.
        """
        url = None if self._public_url is None else self._public_url + path
        return await self._verify(presented(headers), scopes, method, url)

    async def _verify(
        self, presented: Presented, scopes: Iterable[str], method: str | None, url: str | None
    ) -> Verified:
        now = self._timing.wall()
        verified = await self._known_good(presented.token, now)
        await self._assure(presented.token, verified)
        await self._proofs.check(presented, verified.claims, method=method, url=url, now=now)
        require_scopes(verified.claims, scope_names(scopes))
        return Verified(verified.claims, verified.kid)

    async def _known_good(self, token: str, now: float) -> VerifiedToken:
        """Check everything but freshness; a token signed with an unknown key makes the keys be fetched, if rarely."""
        try:
            return self._check.check(token, now, self.audience)
        except BrokerError as error:
            if not _unknown_key(error):
                raise
        fetched = False
        with contextlib.suppress(BrokerError):
            fetched = await self._keys.refresh_for_unknown()
        if not fetched:
            self._require_contact()  # without the broker, nobody knows whether the key is no good or merely new
        return self._check.check(token, now, self.audience)


class LacksScope(BrokerError):
    """The token is good, but not for this (``INSUFFICIENT_SCOPE``): all of ``needed`` is."""

    def __init__(self, needed: tuple[str, ...]) -> None:
        """``needed`` are scopes."""
        super().__init__(Code.INSUFFICIENT_SCOPE, f"this needs the scope {' '.join(needed)}")
        self.needed = needed


def scope_names(scopes: Iterable[str]) -> tuple[str, ...]:
    """Return scopes one by one; they may be given as one text, separated by spaces, as OAuth does."""
    return tuple(scopes.split() if isinstance(scopes, str) else scopes)


def require_scopes(claims: AccessClaims, needed: tuple[str, ...]) -> None:
    """Raise :class:`LacksScope` unless a token has all that are needed."""
    if not set(needed).issubset(claims.scopes):
        raise LacksScope(needed)


def _unknown_key(error: BrokerError) -> bool:
    cause = error.__cause__
    return isinstance(cause, InvalidToken) and cause.why == "kid"


def _public_url(configured: str | None, audience: str) -> str | None:
    """Return what stands in front of a request's path, without a trailing slash; None if nothing was configured."""
    if configured is not None:
        return configured.rstrip("/")
    parts = urlsplit(audience)
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme in ("https", "http") and parts.netloc else None
