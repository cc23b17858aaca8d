"""A broker's use cases, wired over stand-ins for the outside: real policy, decisions, signatures and token checks."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from broker.admission import Admission
from broker.consent import Consent
from broker.core.errors import BrokerError
from broker.core.grant import Ask
from broker.core.identity import REGISTERED, Agent
from broker.core.jwk import public_jwk, thumbprint
from broker.core.policy import Policy, compile_policy
from broker.core.secret import Secret
from broker.core.selector import Selector, parse_selector
from broker.core.tally import Tally
from broker.core.token_check import TokenCheck
from broker.core.used_proofs import UsedProofs
from broker.introspection import Introspection
from broker.issuance import Applicants, IdentityTokens, Intake, Issuance, Issued, TokenIds, TokenRequest
from broker.ledger import SqlLedger
from broker.ledger.sharing.family import Family
from broker.ports import Ledger, Place, ProofMemory, Records, Revocations, UnverifiedAssertion
from broker.revocation import BlockFor, Order, Outcome, Revocation
from broker.signing.access_token import AccessTokenSigner
from broker.signing.identity_token import IdentityTokenSigner
from broker.signing.keyring import KeyRing
from broker.signing.sealing import Sealer
from tests.support.fakes import (
    CALLER,
    NOW,
    AlwaysFresh,
    CountingIds,
    FakeAuthenticator,
    FakeClock,
    MemoryLedger,
    MemoryRecords,
    RecordingEvents,
    RecordingMeter,
    RecordingNotifier,
    ToldSiblings,
)
from tests.support.ledgers import is_there

ISSUER = "https://broker.example"
TOKEN_ENDPOINT = f"{ISSUER}/oauth2/token"
API = f"{ISSUER}/v1"
TICKETS = "https://tickets.internal"
PAYMENTS = "https://payments.internal"

TRIAGE = Selector(agent="triage")

DOCUMENT: dict[str, Any] = {
    "version": 1,
    "tiers": {
        "read": {"max_ttl": "15m"},
        "bound": {"max_ttl": "5m", "proof_of_possession": "required"},
        "approved": {"max_ttl": "5m", "approval": {"approvers": "responders", "quorum": 1, "expires": "10m"}},
    },
    "audiences": {
        TICKETS: {
            "scopes": {"tickets:read": {"tier": "read"}, "tickets:comment": {"tier": "read"}},
            "served_by": [{"agent": "tickets-server"}],
        },
        PAYMENTS: {"scopes": {"refunds:create": {"tier": "bound"}, "refunds:approve": {"tier": "approved"}}},
    },
    "roles": {
        "triage": {
            "members": [{"agent": "triage"}, {"agent": "other"}],
            "allow": [{"audience": TICKETS, "scopes": ["tickets:read", "tickets:comment"]}],
            "limits": {"tokens_per_minute": 5, "role_tokens_per_minute": 8},
        },
        "payers": {
            "members": [{"agent": "payer"}],
            "allow": [{"audience": PAYMENTS, "scopes": ["refunds:create", "refunds:approve"]}],
        },
        "responders": {
            "members": [{"agent": "alice"}],
            "allow": [{"audience": "broker", "scopes": ["operator:read", "revocations:write"]}],
        },
    },
}


def policy(document: dict[str, Any] | None = None) -> Policy:
    """Compile a policy document: the one above unless told otherwise."""
    return compile_policy(document or DOCUMENT, broker_audience=API, broker_issuer=ISSUER)


def agent(name: str = "triage") -> Agent:
    """Return a registered agent."""
    return Agent(id=name, issuer=REGISTERED, subject=name)


class ProofKey:
    """An agent's key for DPoP proofs (RFC 9449)."""

    def __init__(self) -> None:
        self._private = ec.generate_private_key(ec.SECP256R1())
        self._jwk = public_jwk(self._private.public_key())
        self.thumbprint = thumbprint(self._jwk)

    def proof(
        self, now: float, *, method: str = "POST", url: str = TOKEN_ENDPOINT, token: str | None = None, jti: str = "1"
    ) -> str:
        """Make a proof for one request."""
        claims: dict[str, Any] = {"htm": method, "htu": url, "iat": int(now), "jti": jti}
        if token is not None:
            digest = hashlib.sha256(token.encode()).digest()
            claims["ath"] = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        return jwt.encode(claims, self._private, algorithm="ES256", headers={"typ": "dpop+jwt", "jwk": self._jwk})


class World:
    """The use cases of one broker, over a ledger in memory unless they are composed over another."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.ids = CountingIds()
        self.meter = RecordingMeter()
        self.events = RecordingEvents()
        self.notifier = RecordingNotifier()
        self.strangers = Tally()
        self.revocations = Revocations()
        self.memory = MemoryLedger(self.revocations)
        self.reading = MemoryRecords(self.memory)
        self.sql: SqlLedger | None = None
        self.authenticator = FakeAuthenticator()
        self.policy = policy()
        self.ring = KeyRing((), Sealer(Secret(bytes(32))), longest_token=900)
        self.ring.replace([self.ring.generate("ES256", "token", self.clock.time, self.clock.time)])
        self.signer = AccessTokenSigner(self.ring, self.clock, issuer=ISSUER)
        self._assertions = 0
        self.compose(self.memory, self.reading)

    def compose(self, ledger: Ledger, records: Records, proofs: ProofMemory | None = None) -> None:
        """Wire the use cases over a ledger that keeps ``revocations`` current."""
        self.ledger, self.records = ledger, records
        self.check = TokenCheck(
            issuer=ISSUER,
            keys=lambda: self.ring.verification_keys(self.clock.time),
            rules=lambda: self.revocations.rules,
        )
        self.consent = Consent(
            ledger=self.ledger,
            records=self.records,
            policy=lambda: self.policy,
            revocations=self.revocations,
            clock=self.clock,
            notifier=self.notifier,
            meter=self.meter,
            events=self.events,
        )
        applicants = Applicants(
            authenticator=self.authenticator,
            check=self.check,
            freshness=AlwaysFresh() if self.sql is None else self.sql.freshness,
            token_endpoint=TOKEN_ENDPOINT,
            api_audience=API,
        )
        self.intake = Intake(
            applicants=applicants,
            policy=lambda: self.policy,
            ledger=self.ledger,
            records=self.records,
            clock=self.clock,
            ids=self.ids,
            meter=self.meter,
            strangers=self.strangers,
        )
        self.issuance = Issuance(
            issuer=ISSUER,
            applicants=applicants,
            intake=self.intake,
            consent=self.consent,
            policy=lambda: self.policy,
            revocations=self.revocations,
            signer=self.signer,
            ledger=self.ledger,
            records=self.records,
            clock=self.clock,
            ids=self.ids,
            token_ids=TokenIds(self.ids, self.revocations, secrets.randbelow),
            meter=self.meter,
        )
        self.identities = IdentityTokens(
            issuer=ISSUER,
            applicants=applicants,
            intake=self.intake,
            consent=self.consent,
            policy=lambda: self.policy,
            revocations=self.revocations,
            signer=IdentityTokenSigner(self.ring, self.clock, self.ids, issuer=ISSUER),
            ledger=self.ledger,
            records=self.records,
            clock=self.clock,
            ids=self.ids,
            meter=self.meter,
        )
        self.admission = Admission(
            audience=API,
            check=self.check,
            authenticator=self.authenticator,
            ledger=self.ledger,
            clock=self.clock,
            meter=self.meter,
            strangers=self.strangers,
            proofs=proofs or UsedProofs(since=self.clock.now()),
        )
        self.introspection = Introspection(check=self.check, policy=lambda: self.policy, clock=self.clock)
        self.siblings = ToldSiblings()
        self.revocation = Revocation(
            revocations=self.revocations,
            siblings=self.siblings,
            ledger=self.ledger,
            records=self.records,
            clock=self.clock,
            ids=self.ids,
            meter=self.meter,
            events=self.events,
        )

    def assertion(self, name: str = "triage", *, single_use: bool = True) -> UnverifiedAssertion:
        """Return a fresh assertion of a registered agent."""
        self._assertions += 1
        return self.authenticator.knows(agent(name), f"assertion-{self._assertions}", single_use=single_use)

    def request(
        self,
        name: str = "triage",
        *scopes: str,
        audience: str | None = TICKETS,
        proof: str | None = None,
        **ask: Any,  # noqa: ANN401 - members of the ask
    ) -> TokenRequest:
        """Return a token request with a fresh assertion, for ``tickets:read`` unless scopes are named."""
        wanted = Ask(audience=audience, scopes=tuple(sorted(scopes)) or ("tickets:read",), **ask)
        return TokenRequest(assertion=self.assertion(name), ask=wanted, proof=proof)

    async def issue(self, name: str = "triage", *scopes: str, **ask: Any) -> Issued:  # noqa: ANN401 - as above
        """Issue a token for a fresh request."""
        return await self.issuance.issue(self.request(name, *scopes, **ask), CALLER)

    async def revoke(self, *, block: BlockFor | None = None, **fields: str | bool) -> Outcome:
        """Revoke what the selector's ``fields`` name."""
        return await self.revocation.revoke(order(parse_selector(fields), block=block), CALLER)

    def lives(self, token: str) -> bool:
        """Whether a token of ours is good now for whatever it is for."""
        try:
            self.check.check(token, self.clock.time, None)
        except BrokerError:
            return False
        return True


@asynccontextmanager
async def durable_world(place: Place, now: float = NOW, family: Family | None = None) -> AsyncIterator[World]:
    """Run the use cases over a real ledger, made first if it is not there.

    With a ``family``, as one of the processes that share it.
    """
    world = World()
    world.clock.time = now
    if not is_there(place):
        SqlLedger.create(place, world.clock.time)
    ledger = await SqlLedger.open(place, world.revocations, clock=world.clock, family=family, busy_seconds=0.05)
    try:
        world.sql = ledger
        ledger.view.follow(keys=world.ring.replace)
        world.compose(ledger, ledger)
        yield world
    finally:
        await ledger.close()


def order(
    selector: Selector = TRIAGE,
    *,
    reason: str = "it misbehaves",
    key: str | None = None,
    block: BlockFor | None = None,
    by: str = "alice",
) -> Order:
    """Return an order to revoke what ``selector`` selects: the agent ``triage`` unless told otherwise."""
    return Order(selector=selector, reason=reason, by=by, block=block, idempotency_key=key)
