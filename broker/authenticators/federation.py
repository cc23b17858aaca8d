"""Platform tokens: a trusted issuer vouches for a workload, and the workload becomes an agent."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from broker.authenticators.claim_sheet import NewClaims
from broker.authenticators.github_actions import GITHUB_ACTIONS
from broker.authenticators.jwks import IssuerKeys
from broker.authenticators.key_source import KeySource
from broker.authenticators.kubernetes import KUBERNETES
from broker.authenticators.oidc import OIDC
from broker.authenticators.preset import Preset
from broker.authenticators.recognition import Recognised, Recognition
from broker.authenticators.refusal import refused
from broker.authenticators.spiffe import SPIFFE, trust_domain_of
from broker.core.change import Guard, Unused
from broker.core.errors import Code, Unavailable
from broker.core.identity import Agent
from broker.core.issuer import TrustedIssuer
from broker.core.jwt import SKEW, InvalidToken, Row, Unverified, Verified, parse, verify_with_key
from broker.outbound import Outbound
from broker.ports import Authenticated, UnverifiedAssertion

PRESETS: Final[Mapping[str, Preset]] = {
    "kubernetes": KUBERNETES,
    "github-actions": GITHUB_ACTIONS,
    "spiffe": SPIFFE,
    "oidc": OIDC,
}


@dataclass(frozen=True, slots=True)
class _Trusted:
    """A definition with what is derived from it: the demands on its tokens, and its keys."""

    definition: TrustedIssuer
    preset: Preset
    row: Row
    keys: IssuerKeys


class Federation:
    """Authenticates agents by the tokens of their platforms (port ``Authenticator``)."""

    def __init__(self, issuers: Callable[[], Mapping[str, TrustedIssuer]], outbound: Outbound, *, issuer: str) -> None:
        """``issuers`` returns the trusted issuers in force: another mapping whenever one of them changes.

        Keys and recognised tokens belong to a definition, so they do not outlive it. ``issuer`` is the broker itself,
        whose own tokens are no platform identities.
        """
        self._issuers = issuers
        self._outbound = outbound
        self._broker = issuer
        self._seen: Mapping[str, TrustedIssuer] | None = None
        self._trusted: dict[str, _Trusted] = {}
        self._by_issuer: dict[str, _Trusted] = {}
        self._by_trust_domain: dict[str, _Trusted] = {}
        self._dropped: list[IssuerKeys] = []
        self._recognition = Recognition()
        self.new_claims = NewClaims()

    async def authenticate(self, assertion: UnverifiedAssertion, now: float) -> Authenticated:
        """Verify a platform token, or recognise it. Raises as the port says."""
        known = self.recognise(assertion, now)
        if known is not None:
            return known
        try:
            return await self.verify(assertion, parse(assertion.token), now)
        except InvalidToken as error:
            raise refused() from error

    def recognise(self, assertion: UnverifiedAssertion, now: float) -> Authenticated | None:
        """Return what is known of a token that was verified before, if everything it rested on is unchanged."""
        digest = _digest(assertion)
        known = self._recognition.find(digest, now)
        if known is None:
            return None
        trusted = self._current().get(known.issuer.name)
        if trusted is None or trusted.definition is not known.issuer or not trusted.keys.trusts(known.thumbprint, now):
            self._recognition.forget(digest)
            return None
        return known.authenticated

    async def verify(self, assertion: UnverifiedAssertion, token: Unverified, now: float) -> Authenticated:
        """Verify a token completely. Raises ``InvalidToken``, or ``Unavailable`` as the port says."""
        trusted = self._choose(assertion, token)
        verified = await self._verified(trusted, token, now)
        agent = _agent(trusted, verified.claims)
        if trusted.preset.sheet is not None:
            self.new_claims.add(agent.issuer, trusted.preset.sheet.new(verified.claims))
        authenticated = Authenticated(
            agent=agent,
            method=trusted.preset.method,
            digest=hashlib.sha256(assertion.token.encode()).hexdigest(),
            guards=_guards(trusted.definition, verified.claims),
            assertion_id=verified.claims.get("jti"),
            key=verified.key.thumbprint,
        )
        if not authenticated.guards:
            until = verified.claims["exp"] + SKEW
            known = Recognised(authenticated, trusted.definition, verified.key.thumbprint, until)
            self._recognition.remember(_digest(assertion), known)
        return authenticated

    def knows(self, issuer: str | None) -> bool:
        """Whether this is the ``iss`` of a trusted issuer."""
        self._current()
        return issuer in self._by_issuer

    async def refresh(self, now: float) -> None:
        """Fetch the keys of each issuer whose time has come, so that requests need not wait. Raises nothing."""
        await asyncio.gather(*(trusted.keys.refresh(now) for trusted in self._current().values()))

    async def close(self) -> None:
        """End all requests that are under way."""
        held = (trusted.keys for trusted in self._trusted.values())
        await asyncio.gather(*(keys.close() for keys in (*held, *self._dropped)))

    # --- inside -----------------------------------------------------------------------------------------------------

    def _choose(self, assertion: UnverifiedAssertion, token: Unverified) -> _Trusted:
        """Choose who may have signed a token, by what it says of itself; the signature then proves it, or not."""
        self._current()
        by_issuer = self._by_issuer.get(token.names("iss") or "")
        if by_issuer is not None and not assertion.spiffe:
            return by_issuer
        by_trust_domain = self._by_trust_domain.get(trust_domain_of(token.names("sub")) or "")
        if by_trust_domain is None:
            raise InvalidToken("issuer")
        return by_trust_domain

    async def _verified(self, trusted: _Trusted, token: Unverified, now: float) -> Verified:
        kid = token.header.get("kid")
        try:
            keys = await trusted.keys.for_token(kid if isinstance(kid, str) else None, now)
        except Unavailable as error:
            text = "the keys of the assertion's issuer cannot be had now; try again"
            raise Unavailable(Code.ISSUER_UNAVAILABLE, text, retry_after=error.retry_after or 1) from error
        definition = trusted.definition
        if self._current().get(definition.name) is not trusted:
            raise InvalidToken("issuer")  # it was replaced or dropped while its keys were being fetched
        return verify_with_key(
            token, trusted.row, keys, issuer=definition.issuer, audiences=definition.audiences, now=now
        )

    def _current(self) -> Mapping[str, _Trusted]:
        """Return the trusted issuers by name; one whose definition did not change keeps its keys."""
        issuers = self._issuers()
        if issuers is not self._seen:
            self._adopt(issuers)
        return self._trusted

    def _adopt(self, issuers: Mapping[str, TrustedIssuer]) -> None:
        before, self._trusted = self._trusted, {}
        for name, definition in issuers.items():
            if definition.issuer == self._broker:
                continue
            held = before.get(name)
            if held is None or held.definition != definition:
                held = self._trust(definition)
            self._trusted[name] = held
        gone = (one.keys for name, one in before.items() if self._trusted.get(name) is not one)
        self._dropped = [keys for keys in (*self._dropped, *gone) if keys.busy]  # requests may be waiting for them
        trusted = self._trusted.values()
        self._by_issuer = {one.definition.issuer: one for one in trusted if one.definition.issuer is not None}
        self._by_trust_domain = {one.definition.trust_domain: one for one in trusted if one.definition.trust_domain}
        self._seen = issuers

    def _trust(self, definition: TrustedIssuer) -> _Trusted:
        preset = PRESETS[definition.preset]
        algorithms = frozenset(definition.algorithms)
        if "EdDSA" in algorithms:
            algorithms |= {"Ed25519"}  # its name in RFC 9864
        row = replace(preset.row, algorithms=algorithms, max_lifetime=definition.max_lifetime)
        source = KeySource(definition, self._outbound, use=preset.key_use)
        return _Trusted(definition, preset, row, IssuerKeys(source))


def _agent(trusted: _Trusted, claims: Mapping[str, Any]) -> Agent:
    try:
        return trusted.preset.identify(claims, trusted.definition)
    except InvalidToken:
        raise
    except ValueError as error:
        raise InvalidToken("subject") from error  # no token and no selector could name such an agent


def _guards(definition: TrustedIssuer, claims: Mapping[str, Any]) -> tuple[Guard, ...]:
    if not definition.require_unique_jti:
        return ()
    jti = claims.get("jti")
    if jti is None:
        raise InvalidToken("claims")
    key = hashlib.sha256(f"platform\n{definition.issuer}\n{jti}".encode()).digest()
    return (Unused(key, math.ceil(claims["exp"] + SKEW), "assertion"),)


def _digest(assertion: UnverifiedAssertion) -> bytes:
    kind = b"spiffe\n" if assertion.spiffe else b"\n"
    return hashlib.sha256(kind + assertion.token.encode("utf-8", "surrogatepass")).digest()
