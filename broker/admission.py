"""Admitting a caller to the broker's own endpoints: by an access token, or by an assertion of who it is."""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.core.change import Change
from broker.core.dpop import check_proof
from broker.core.entry import Entry, Kind, entry
from broker.core.errors import BrokerError, Code, GuardFailed, Refused, Unavailable
from broker.core.identity import bearer
from broker.core.tally import WINDOW, Tally
from broker.core.token_check import TokenCheck
from broker.core.used_proofs import ProofUse
from broker.ports import (
    Admitted,
    Authenticated,
    Authenticator,
    Caller,
    Clock,
    Ledger,
    Meter,
    ProofMemory,
    UnverifiedAssertion,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """An access token as presented with one request: ``scheme`` in lower case, and the request it came with.

    ``revokes`` says that the request can only take something away.
    """

    scheme: str
    token: str = field(repr=False)
    proof: str | None = field(repr=False)
    method: str
    url: str
    revokes: bool = False


class Admission:
    """Says who a caller is, or refuses."""

    def __init__(  # noqa: PLR0913 - a composition root passes each port by name
        self,
        *,
        audience: str,
        check: TokenCheck,
        authenticator: Authenticator,
        ledger: Ledger,
        clock: Clock,
        meter: Meter,
        strangers: Tally,
        proofs: ProofMemory,
    ) -> None:
        """``audience`` is the broker's own API as a resource; ``proofs`` remembers used DPoP proofs."""
        self._audience = audience
        self._check = check
        self._authenticator = authenticator
        self._ledger = ledger
        self._clock = clock
        self._meter = meter
        self._strangers = strangers
        self._proofs = proofs

    async def by_token(self, presented: Presented) -> Admitted:
        """Admit the bearer, or the holder of the bound key, of an access token for the broker's own API.

        Raises ``BrokerError`` with a ``TOKEN_…`` or ``PROOF_…`` code, and ``Unavailable`` if it cannot be known whether
        a proof was used before. Nothing is written but that it is used now, where several processes must know.
        """
        try:
            return await self._by_token(presented, self._clock.now())
        except BrokerError as error:
            self._count(error)
            raise

    async def by_assertion(self, assertion: UnverifiedAssertion, client_id: str | None, caller: Caller) -> Admitted:
        """Admit an agent by its client assertion; a single-use assertion is used up, durably, before this returns.

        Raises ``Refused`` or ``Unavailable`` like the token endpoint.
        """
        now = self._clock.now()
        try:
            who = await self._authenticator.authenticate(assertion, now)
            if client_id is not None and client_id != who.agent.id:
                text = "client_id is not the client that the assertion authenticates"
                raise Refused(Code.CLIENT_AUTHENTICATION_FAILED, text)
        except BrokerError as error:
            self._count(error)
            raise
        if who.guards:
            try:
                await self._ledger.commit(Change(_used_entry(who, now, caller), who.guards))
            except GuardFailed as failed:
                self._count(failed)
                raise Refused(failed.code, failed.public) from failed
        return Admitted(agent=who.agent)

    async def _by_token(self, presented: Presented, now: float) -> Admitted:
        verified = self._check.check(presented.token, now, self._audience)
        claims = verified.claims
        if presented.scheme != ("bearer" if claims.jkt is None else "dpop"):
            text = "a token that is bound to a key must come with the DPoP scheme, and only such a token"
            raise BrokerError(Code.TOKEN_INVALID, text)
        if claims.jkt is not None:
            await self._prove(presented, claims.client_id, claims.jkt, now)
        agent = bearer(claims.client_id, claims.issuer)
        return Admitted(agent=agent, scopes=frozenset(claims.scopes), claims=claims, kid=verified.kid)

    async def _prove(self, presented: Presented, agent: str, jkt: str, now: float) -> None:
        if presented.proof is None:
            raise BrokerError(Code.PROOF_REQUIRED, "the token is bound to a key: send a DPoP proof")
        proof = check_proof(
            presented.proof, method=presented.method, url=presented.url, now=now, access_token=presented.token
        )
        if proof.jkt != jkt:
            raise BrokerError(Code.PROOF_INVALID, "the proof is made with another key than the token is bound to")
        use = await self._proofs.use(agent, proof.replay_key, proof.expires_at, now)
        if use is ProofUse.TOO_MANY:
            text = "too many proofs in a minute; every one has to be remembered"
            raise BrokerError(Code.RATE_LIMITED, text, retry_after=int(WINDOW))
        # Revoking must work whatever fails (law 1): for that, it will do that the proof was not used here.
        if use is ProofUse.UNCERTAIN and not presented.revokes:
            text = "whether the proof was used before cannot be found out now"
            raise Unavailable(Code.LEDGER_UNAVAILABLE, text, retry_after=1)
        if use is ProofUse.USED:
            raise BrokerError(Code.PROOF_REPLAYED, "the proof was used before, or may have been: make a new one")

    def _count(self, error: BrokerError) -> None:
        self._strangers.add(error.code.value)
        self._meter.refused(error.code.value)


def _used_entry(who: Authenticated, now: float, caller: Caller) -> Entry:
    return entry(
        Kind.ASSERTION_USED,
        now,
        agent=who.agent.id,
        issuer=who.agent.issuer,
        subject=who.agent.subject,
        attributes_digest=who.agent.attributes_digest(),
        method=who.method,
        assertion=who.digest,
        assertion_id=who.assertion_id,
        assertion_key=who.key,
        **caller.members(),
    )
