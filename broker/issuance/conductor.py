"""Issuing a token: authenticate, decide, mint, check, record, release. The order is the design (laws 1 and 2)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from broker.core.change import Change, EpochIs, Guard, RateWithin, Unused
from broker.core.claims import AccessClaims
from broker.core.decide import decide
from broker.core.dpop import Proof, check_proof
from broker.core.entry import MAX_INT, Entry, Kind, entry
from broker.core.errors import BrokerError, Code, EpochMoved, GuardFailed, Refused, Unavailable
from broker.core.grant import Ask, Denied, Granted, NeedsApproval
from broker.core.identity import Agent, Attribute
from broker.core.policy import Policy
from broker.core.tally import Allowance, Tally
from broker.ports import (
    Authenticated,
    Authenticator,
    Caller,
    Clock,
    Ids,
    Ledger,
    Meter,
    Minted,
    Revocations,
    Signer,
    UnverifiedAssertion,
)

MAX_ATTEMPTS: Final = 16
"""How often one request is decided again because revocations got in between, before it is told to come back."""

RECORDED_REFUSALS: Final = 60
"""Refusals per agent and minute that get an entry of their own; more are recorded in aggregate.

Agents without any role share this number with all such agents of their issuer."""

_STRANGERS: Final = frozenset({Code.ASSERTION_REPLAYED, Code.PROOF_REPLAYED})
"""Guards that say the caller may not be who the assertion names; such a refusal is counted, not written."""

_sorted_json: Final = msgspec.json.Encoder(order="sorted")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """A token request, parsed and typed, nothing of it verified. ``ask.jkt`` is unset: ``proof`` decides it."""

    assertion: UnverifiedAssertion
    ask: Ask
    client_id: str | None = None
    proof: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A released token: durable in the ledger at ``seq``."""

    token: str = field(repr=False)
    claims: AccessClaims
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Applicant:
    """Who asks for what, from where, proven how: everything about a request that stays the same when decided again."""

    who: Authenticated
    ask: Ask
    guards: tuple[Guard, ...]
    caller: Caller
    now: float


class Issuance:
    """The conductor of token requests."""

    def __init__(  # noqa: PLR0913 - a composition root passes each port by name
        self,
        *,
        issuer: str,
        token_endpoint: str,
        authenticator: Authenticator,
        policy: Callable[[], Policy],
        revocations: Revocations,
        signer: Signer,
        ledger: Ledger,
        clock: Clock,
        ids: Ids,
        meter: Meter,
        strangers: Tally,
        nonce_key: bytes | None = None,
    ) -> None:
        """``issuer`` and ``token_endpoint`` are the configured public URLs; ``policy`` returns the one in force.

        With a ``nonce_key`` (32 secret bytes) every DPoP proof must hold a nonce that was made with it.
        """
        self._nonce_key = nonce_key
        self._issuer = issuer
        self._token_endpoint = token_endpoint
        self._authenticator = authenticator
        self._policy = policy
        self._revocations = revocations
        self._signer = signer
        self._ledger = ledger
        self._clock = clock
        self._ids = ids
        self._meter = meter
        self._strangers = strangers
        self._recorded = Allowance(RECORDED_REFUSALS)

    async def issue(self, request: TokenRequest, caller: Caller) -> Issued:
        """Answer one token request.

        Raises ``Refused`` when the agent may not have it, ``Unavailable`` when it cannot be had now. Whatever is
        raised, no credential exists that the ledger does not record.
        """
        now = self._clock.now()
        for _ in range(MAX_ATTEMPTS):
            # Anew each time: who was removed, and then revoked, in between must not get a token that outlives the rule.
            applicant = await self._identify(request, caller, now)
            try:
                return await self._grant(applicant)
            except EpochMoved:
                continue
            except GuardFailed as failed:
                if failed.code in _STRANGERS:
                    self._count(failed.code)
                    raise Refused(failed.code, failed.public) from failed
                raise await self._refusal(applicant, failed.code, failed.public, failed.retry_after) from failed
        busy = "revocations are being made faster than this request can be decided; try again"
        raise Unavailable(Code.OVERLOADED, busy, retry_after=1)

    async def _grant(self, applicant: _Applicant) -> Issued:
        """Decide once and act on it. Raises ``EpochMoved`` if the rules changed before it was durable."""
        policy = self._policy()
        epoch = self._revocations.rules.epoch
        decision = decide(policy, self._revocations.blocks, applicant.who.agent, applicant.ask, applicant.now)
        match decision:
            case Denied(code, reason):
                raise await self._refusal(applicant, code, reason)
            case NeedsApproval(tier=tier):
                reason = f"tier {tier} needs a person's approval, and this broker cannot ask for one yet"
                raise await self._refusal(applicant, Code.APPROVAL_REQUIRED, reason)
            case Granted():
                return await self._release(applicant, decision, policy, epoch)

    async def _release(self, applicant: _Applicant, granted: Granted, policy: Policy, epoch: int) -> Issued:
        """Mint, check, record, and only then release."""
        claims = self._claims(applicant, granted, epoch)
        minted = await self._signer.mint_checked(claims, applicant.now)
        guards = (EpochIs(epoch), *applicant.guards, *_rates(applicant, granted))
        record = _issued_entry(applicant, granted, claims, minted, policy.digest)
        receipt = await self._ledger.commit(Change(record, guards))
        self._meter.issued(granted.role, applicant.who.method)
        return Issued(token=minted.token, claims=claims, seq=receipt.seq)  # the only line that releases a token

    async def _identify(self, request: TokenRequest, caller: Caller, now: float) -> _Applicant:
        """Authenticate the agent and its key. What fails here costs nothing lasting (law 10)."""
        try:
            who = await self._authenticator.authenticate(request.assertion, now)
            if request.client_id is not None and request.client_id != who.agent.id:
                text = "client_id is not the client that the assertion authenticates"
                raise Refused(Code.CLIENT_AUTHENTICATION_FAILED, text)
            proof = self._prove(request.proof, now)
        except BrokerError as error:
            self._count(error.code)
            raise
        ask = request.ask if proof is None else _bound(request.ask, proof)
        used = () if proof is None else (Unused(proof.replay_key, proof.expires_at, "proof"),)
        return _Applicant(who=who, ask=ask, guards=(*who.guards, *used), caller=caller, now=now)

    def _prove(self, proof: str | None, now: float) -> Proof | None:
        if proof is None:
            return None
        return check_proof(proof, method="POST", url=self._token_endpoint, now=now, nonce_key=self._nonce_key)

    def _claims(self, applicant: _Applicant, granted: Granted, epoch: int) -> AccessClaims:
        agent, iat = applicant.who.agent, int(applicant.now)
        return AccessClaims(
            iss=self._issuer,
            sub=agent.id,
            aud=granted.audience,
            client_id=agent.id,
            iat=iat,
            exp=iat + granted.ttl,
            jti=self._ids.new("tok"),
            scopes=granted.scopes,
            epoch=epoch,
            task=applicant.ask.task or self._ids.new("task"),
            role=granted.role,
            tier=granted.tier,
            issuer=agent.issuer,
            jkt=applicant.ask.jkt,
        )

    def _count(self, code: Code) -> None:
        """Count a refusal that is recorded in aggregate."""
        self._strangers.add(code.value)
        self._meter.refused(code.value)

    async def _refusal(
        self, applicant: _Applicant, code: Code, reason: str, retry_after: int | None = None
    ) -> BrokerError:
        """Record a refusal of an authenticated agent and return what to raise.

        The assertion is used up with it. An agent that is refused all the time gets no entry of its own for each
        refusal, and its assertion is then left unused: it can only ask again. A refusal that cannot be recorded is
        answered with the ledger's failure.
        """
        if not self._recorded.admit(self._refused_as(applicant.who.agent), applicant.now):
            self._count(code)
            return Refused(code, reason, retry_after=retry_after)
        refusal = self._ids.new("ref")
        record = _refused_entry(applicant, refusal, code, reason, self._policy().digest)
        try:
            await self._ledger.commit(Change(record, applicant.guards))
        except GuardFailed as failed:
            self._count(failed.code)
            return Refused(failed.code, failed.public)
        self._meter.refused(code.value)
        return Refused(code, reason, refusal=refusal, retry_after=retry_after)

    def _refused_as(self, agent: Agent) -> str:
        """Return under which name an agent's refusals are counted.

        An issuer may vouch for anybody (GitHub does, under as many names as one likes). Whoever has no role here is as
        good as a stranger, so all of them together get no more entries than one agent (law 10).
        """
        return agent.id if self._policy().roles_of(agent) else f"{agent.issuer}/"


def _bound(ask: Ask, proof: Proof) -> Ask:
    return Ask(audience=ask.audience, scopes=ask.scopes, task=ask.task, jkt=proof.jkt)


def _rates(applicant: _Applicant, granted: Granted) -> tuple[RateWithin, ...]:
    limits = (
        (f"agent/{granted.role}/{applicant.who.agent.id}", granted.agent_per_minute),
        (f"role/{granted.role}", granted.role_per_minute),
    )
    return tuple(RateWithin(key, limit, applicant.now) for key, limit in limits if limit is not None)


def _issued_entry(
    applicant: _Applicant, granted: Granted, claims: AccessClaims, minted: Minted, policy_digest: str
) -> Entry:
    agent = applicant.who.agent
    return entry(
        Kind.TOKEN_ISSUED,
        applicant.now,
        ref=claims.jti,
        agent=agent.id,
        issuer=agent.issuer,
        subject=agent.subject,
        attributes_digest=hashlib.sha256(_sorted_json.encode(dict(agent.attributes))).hexdigest(),
        role=claims.role,
        tier=claims.tier,
        task=claims.task,
        audience=claims.aud,
        scope=" ".join(claims.scopes),
        epoch=claims.epoch,
        expires_at=claims.exp,
        key=minted.kid,
        bound_key=claims.jkt,
        allowed_by=granted.allowed_by,
        policy=policy_digest,
        **_provenance(applicant),
    )


def _refused_entry(applicant: _Applicant, refusal: str, code: Code, reason: str, policy_digest: str) -> Entry:
    agent, ask = applicant.who.agent, applicant.ask
    return entry(
        Kind.TOKEN_REFUSED,
        applicant.now,
        ref=refusal,
        agent=agent.id,
        issuer=agent.issuer,
        subject=agent.subject,
        attributes={name: _recordable(value) for name, value in agent.attributes.items() if value not in ((), "")},
        code=code.value,
        reason=reason,
        audience=ask.audience,
        scope=None if ask.scopes is None else " ".join(ask.scopes),
        task=ask.task,
        bound_key=ask.jkt,
        policy=policy_digest,
        **_provenance(applicant),
    )


def _recordable(value: Attribute) -> Attribute:
    """Return a claim as an entry can hold it: a whole number that some JSON reader would round becomes text."""
    return str(value) if isinstance(value, int) and abs(value) > MAX_INT else value


def _provenance(applicant: _Applicant) -> dict[str, str | None]:
    """How the agent was authenticated, from where, in which trace: part of every entry about it."""
    who = applicant.who
    return {
        "method": who.method,
        "assertion": who.digest,
        "assertion_id": who.assertion_id,
        "assertion_key": who.key,
        **applicant.caller.members(),
    }
