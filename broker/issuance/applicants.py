"""Who applies for a token: the agent, the key whose possession it proved, and the token that it wants to exchange."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Final

from broker.core.access_token import VerifiedToken
from broker.core.change import Guard, Unused
from broker.core.claims import AccessClaims
from broker.core.dpop import Proof, check_proof
from broker.core.errors import BrokerError, Code, Refused
from broker.core.grant import Ask
from broker.core.identity import Agent, bearer
from broker.core.jwt import parse
from broker.core.subject import Subject
from broker.core.token_check import TokenCheck
from broker.ports import Authenticated, Authenticator, Caller, Freshness, UnverifiedAssertion

_LINE_OF_OTHERS: Final = frozenset({"act", "may_act", "cnf"})
"""Claims by which an issuer says who may use its token: by nobody here, since these agents and keys are its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What a token exchange (RFC 8693) brings: the token to be exchanged.

    ``vouched`` says that it is a token of a trusted issuer, about the agent on whose behalf the actor asks.
    ``actor_token`` is the actor's own access token, if that is how the actor says who it is. ``actor_asserted`` says
    that it does so by a token of a trusted issuer, which is the request's ``assertion`` then. ``identity`` says that
    an identity token is asked for, for others, in place of an access token.
    """

    subject_token: str = field(repr=False)
    vouched: bool = False
    actor_token: str | None = field(default=None, repr=False)
    actor_asserted: bool = False
    identity: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """A token request, parsed and typed, nothing of it verified. ``ask.jkt`` is unset: ``proof`` decides it.

    ``assertion`` says who is asking; it is None only if an ``exchange.actor_token`` does. ``auth_req_id`` names the
    pending request that this one goes on with; with ``takes_over`` (CIBA) what it leaves out is taken from there.
    ``wait`` is how many seconds the caller would wait for a decision. ``break_glass`` is the reason to go ahead
    without one.
    """

    assertion: UnverifiedAssertion | None
    ask: Ask
    client_id: str | None = None
    proof: str | None = field(default=None, repr=False)
    exchange: Exchange | None = None
    auth_req_id: str | None = None
    takes_over: bool = False
    wait: float = 0
    break_glass: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Applicant:
    """Who asks for what, from where, proven how, at what time (Unix seconds).

    ``guards`` must hold in the commit that acts on this: single use of an assertion and of a proof. ``subject`` is on
    whose behalf a trusted issuer's token lets it ask; ``subject_guards`` must hold when a token comes of that.
    """

    who: Authenticated
    ask: Ask
    guards: tuple[Guard, ...]
    caller: Caller
    now: float
    request: TokenRequest
    subject: Subject | None = None
    subject_guards: tuple[Guard, ...] = ()

    @property
    def agent(self) -> Agent:
        """Who asks."""
        return self.who.agent

    def provenance(self) -> dict[str, str | None]:
        """Return how the agent was authenticated, from where, in which trace: part of every entry about it."""
        return {
            "method": self.who.method,
            "assertion": self.who.digest,
            "assertion_id": self.who.assertion_id,
            "assertion_key": self.who.key,
            **self.caller.members(),
        }


class Applicants:
    """Identifies applicants. What fails here costs nothing lasting (law 10)."""

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        check: TokenCheck,
        freshness: Freshness,
        token_endpoint: str,
        api_audience: str,
        nonce_key: bytes | None = None,
    ) -> None:
        """``token_endpoint`` is the configured public URL, which proofs must name; ``api_audience`` the broker's API.

        With a ``nonce_key`` (32 secret bytes) every DPoP proof must hold a nonce that was made with it.
        """
        self._authenticator = authenticator
        self._check = check
        self._freshness = freshness
        self._token_endpoint = token_endpoint
        self._api_audience = api_audience
        self._nonce_key = nonce_key

    async def identify(self, request: TokenRequest, caller: Caller, now: float) -> Applicant:
        """Authenticate the agent and its key. Raises ``BrokerError``; nothing was written then.

        Every agent, rule and key is known by then that was committed before, so that none is refused, or taken, by what
        was so earlier. What comes after is found out by the commit.
        """
        await self._freshness.ensure()
        who = await self._authenticate(request, now)
        if request.client_id is not None and request.client_id != who.agent.id:
            text = "client_id is not the client that the assertion authenticates"
            raise Refused(Code.CLIENT_AUTHENTICATION_FAILED, text)
        proof = self._prove(request.proof, now)
        ask = request.ask if proof is None else replace(request.ask, jkt=proof.jkt)
        used = () if proof is None else (Unused(proof.replay_key, proof.expires_at, "proof"),)
        return Applicant(who=who, ask=ask, guards=(*who.guards, *used), caller=caller, now=now, request=request)

    async def with_subject(self, applicant: Applicant) -> Applicant:
        """Return an applicant with the subject that a trusted issuer's token names, if it brings one, verified.

        Raises ``Refused`` (``SUBJECT_TOKEN_INVALID``), or ``Unavailable`` if the issuer's keys cannot be had.
        """
        exchange = applicant.request.exchange
        if exchange is None or not exchange.vouched:
            return applicant
        assertion = UnverifiedAssertion(exchange.subject_token, as_grant=True)
        try:
            who = await self._authenticator.authenticate(assertion, applicant.now)
        except Refused as error:
            raise Refused(Code.SUBJECT_TOKEN_INVALID, f"subject_token: {error.public}") from error
        claims = parse(exchange.subject_token).payload  # which are verified by now
        if not _LINE_OF_OTHERS.isdisjoint(claims):
            text = f"subject_token: one with {', '.join(sorted(_LINE_OF_OTHERS))} is not for everybody who holds it"
            raise Refused(Code.SUBJECT_TOKEN_INVALID, text)
        if who.agent.id == applicant.agent.id or who.key is None:
            raise Refused(Code.SUBJECT_TOKEN_INVALID, "subject_token: ask for a token of your own instead")
        subject = Subject(
            agent=who.agent, digest=who.digest, expires_at=int(claims["exp"]), key=who.key, token_id=who.assertion_id
        )
        guards = tuple(replace(guard, what="subject") for guard in who.guards if isinstance(guard, Unused))
        return replace(applicant, subject=subject, subject_guards=guards)

    def parent(self, applicant: Applicant) -> VerifiedToken | None:
        """Return the token of ours to be exchanged, if any, judged by the rules of this moment; so is the actor's own.

        Raises ``Refused`` (``SUBJECT_TOKEN_INVALID``, ``ACTOR_TOKEN_INVALID``).
        """
        exchange = applicant.request.exchange
        if exchange is None:
            return None
        if exchange.actor_token is not None:
            self._actor(applicant.request, applicant.now)
        if exchange.vouched:
            return None
        return self._good(exchange.subject_token, applicant.now, None, Code.SUBJECT_TOKEN_INVALID, "subject_token")

    def exchanged(self, request: TokenRequest, now: float) -> AccessClaims | None:
        """Return what the token of ours says that a request wants to exchange, if that token is good."""
        if request.exchange is None or request.exchange.vouched:
            return None
        try:
            return self._check.check(request.exchange.subject_token, now, None).claims
        except BrokerError:
            return None

    async def _authenticate(self, request: TokenRequest, now: float) -> Authenticated:
        if request.assertion is None:
            return self._actor(request, now)
        try:
            return await self._authenticator.authenticate(request.assertion, now)
        except Refused as error:
            if request.exchange is not None and request.exchange.actor_asserted:
                raise Refused(Code.ACTOR_TOKEN_INVALID, f"actor_token: {error.public}") from error
            raise

    def _actor(self, request: TokenRequest, now: float) -> Authenticated:
        """Return the agent whose own access token for the broker's API is presented as actor token.

        It must be for the broker: else any resource server could act as the agents whose tokens it was sent.
        """
        token = None if request.exchange is None else request.exchange.actor_token
        if token is None:
            raise Refused(Code.CLIENT_AUTHENTICATION_MISSING, "nothing says who is asking")
        verified = self._good(token, now, self._api_audience, Code.ACTOR_TOKEN_INVALID, "actor_token")
        claims = verified.claims
        if claims.jkt is not None and self._thumbprint(request.proof, now) != claims.jkt:
            raise Refused(Code.ACTOR_TOKEN_INVALID, "actor_token: bound to a key whose possession was not proved")
        return Authenticated(
            agent=bearer(claims.client_id, claims.issuer),
            method="access_token",
            digest=hashlib.sha256(token.encode()).hexdigest(),
            assertion_id=claims.jti,
            key=verified.kid,
        )

    def _good(self, token: str, now: float, audience: str | None, code: Code, name: str) -> VerifiedToken:
        try:
            return self._check.check(token, now, audience)
        except BrokerError as error:
            raise Refused(code, f"{name}: {error.public}") from error

    def _thumbprint(self, proof: str | None, now: float) -> str | None:
        proved = self._prove(proof, now)
        return None if proved is None else proved.jkt

    def _prove(self, proof: str | None, now: float) -> Proof | None:
        if proof is None:
            return None
        return check_proof(proof, method="POST", url=self._token_endpoint, now=now, nonce_key=self._nonce_key)
