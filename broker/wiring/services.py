"""The use cases, composed on their ground. No logic."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from broker.actions import Actions
from broker.admission import Admission
from broker.approvals import Approvals
from broker.authenticators.client_assertion import ClientAssertion
from broker.authenticators.dispatch import Dispatch
from broker.core.dpop import make_nonce
from broker.core.errors import Unavailable
from broker.core.token_check import TokenCheck
from broker.erasure import Erasure
from broker.http.pressure import Pressure
from broker.http.surface import Services, Site
from broker.introspection import Introspection
from broker.issuance import Applicants, IdentityTokens, Intake, Issuance, TokenIds
from broker.key_rotation import KeyRotation
from broker.leasing import Holdings, Leasing, Oversight
from broker.metrics import exposition
from broker.receipts import Receipts
from broker.registration import Registration
from broker.right_sizing import RightSizing
from broker.signing.access_token import AccessTokenSigner
from broker.signing.status_list import StatusListSigner
from broker.signing.tlog_proof import write_receipt
from broker.status_lists import StatusLists
from broker.tasks import Tasks
from broker.timing import SYSTEM
from broker.wiring.backends import JweEnvelope
from broker.wiring.ground import Ground


def compose_services(ground: Ground, site: Site) -> Services:
    """Return the use cases."""
    config, ledger, clock, ids = ground.config, ground.ledger, ground.clock, ground.ids
    metrics, strangers, revocations = ground.metrics, ground.strangers, ground.revocations
    authenticator = Dispatch(
        federation=ground.federation,
        registered=ClientAssertion(ledger, issuer=ground.issuer, max_ahead=config.limits.assertion_seconds),
    )
    check = TokenCheck(
        issuer=ground.issuer,
        keys=lambda: ground.ring.verification_keys(clock.now()),
        rules=lambda: revocations.rules,
        first_hand=True,
    )
    applicants = _applicants(ground, site, authenticator, check)
    intake = _intake(ground, applicants)
    return Services(
        issuance=_issuance(ground, applicants, intake),
        identities=_identities(ground, applicants, intake),
        admission=Admission(
            audience=config.api_audience,
            check=check,
            authenticator=authenticator,
            ledger=ledger,
            clock=clock,
            meter=metrics,
            strangers=strangers,
            proofs=ground.place.proofs or ledger.proofs,
        ),
        introspection=Introspection(check=check, policy=ground.policy_control.current, clock=clock),
        revocation=ground.revocation,
        feed=ground.feed,
        propagations=ground.propagation.propagations,
        acknowledging=ground.propagation.acknowledging,
        registration=Registration(ledger=ledger, records=ledger, clock=clock, ids=ids, strangers=strangers),
        key_rotation=KeyRotation(custody=ground.ring, ledger=ledger, records=ledger, clock=clock),
        approvals=_approvals(ground),
        actions=_actions(ground, check),
        leasing=_leasing(ground),
        holdings=_holdings(ground),
        oversight=Oversight(
            backends=ground.backends,
            ledger=ledger,
            leases=ledger,
            clock=clock,
            meter=metrics,
        ),
        tasks=Tasks(
            ledger=ledger,
            records=ledger,
            revocations=revocations,
            revoker=ground.revocation,
            policy=ground.policy_control.current,
            clock=clock,
            ids=ids,
            events=ground.events,
        ),
        policy_control=ground.policy_control,
        right_sizing=RightSizing(records=ledger, policy=ground.policy_control.current, clock=clock),
        erasure=Erasure(ledger=ledger, erasable=ledger, clock=clock, ids=ids, keep_days=config.personal_days),
        records=ledger,
        anchoring=ground.anchoring,
        cosigned=ledger.cosigned,
        inquiries=ledger,
        proofs=ledger,
        receipts=Receipts(proofs=ledger, records=ledger, write=write_receipt),
        revocations=revocations,
        status_lists=StatusLists(
            issuer=ground.issuer,
            records=ledger,
            revocations=revocations,
            sign=StatusListSigner(ground.ring).sign,
            clock=clock,
        ),
        token_check=check,
        freshness=ledger.freshness,
        jwks=ground.ring.jwks,
        snapshot=ground.statements.snapshot,
        health=lambda: _health(ground),
        nonce=lambda now: make_nonce(ground.nonce_key, now),
        clock=clock,
        ids=ids,
        metrics=metrics,
        measured=lambda: _measured(ground),
        events=ground.events,
        pressure=Pressure(metrics, SYSTEM.spread),
    )


def _applicants(ground: Ground, site: Site, authenticator: Dispatch, check: TokenCheck) -> Applicants:
    return Applicants(
        authenticator=authenticator,
        check=check,
        freshness=ground.ledger.freshness,
        token_endpoint=site.token_endpoint,
        api_audience=ground.config.api_audience,
        nonce_key=ground.nonce_key if ground.config.dpop_nonces else None,
    )


def _intake(ground: Ground, applicants: Applicants) -> Intake:
    return Intake(
        applicants=applicants,
        policy=ground.policy_control.current,
        ledger=ground.ledger,
        records=ground.ledger,
        clock=ground.clock,
        ids=ground.ids,
        meter=ground.metrics,
        strangers=ground.strangers,
    )


def _issuance(ground: Ground, applicants: Applicants, intake: Intake) -> Issuance:
    return Issuance(
        issuer=ground.issuer,
        applicants=applicants,
        intake=intake,
        consent=ground.consent,
        policy=ground.policy_control.current,
        revocations=ground.revocations,
        signer=AccessTokenSigner(ground.ring, ground.clock, issuer=ground.issuer),
        ledger=ground.ledger,
        records=ground.ledger,
        clock=ground.clock,
        ids=ground.ids,
        token_ids=TokenIds(ground.ids, ground.revocations, secrets.randbelow),
        meter=ground.metrics,
    )


def _identities(ground: Ground, applicants: Applicants, intake: Intake) -> IdentityTokens:
    return IdentityTokens(
        issuer=ground.issuer,
        applicants=applicants,
        intake=intake,
        consent=ground.consent,
        policy=ground.policy_control.current,
        revocations=ground.revocations,
        signer=ground.identities,
        ledger=ground.ledger,
        records=ground.ledger,
        clock=ground.clock,
        ids=ground.ids,
        meter=ground.metrics,
    )


def _actions(ground: Ground, check: TokenCheck) -> Actions:
    return Actions(
        check=check,
        consent=ground.consent,
        policy=ground.policy_control.current,
        revocations=ground.revocations,
        ledger=ground.ledger,
        records=ground.ledger,
        clock=ground.clock,
        ids=ground.ids,
        meter=ground.metrics,
    )


def _leasing(ground: Ground) -> Leasing:
    return Leasing(
        backends=ground.backends,
        envelope=JweEnvelope(),
        fingerprint_key=ground.fingerprint_key,
        consent=ground.consent,
        policy=ground.policy_control.current,
        revocations=ground.revocations,
        ledger=ground.ledger,
        records=ground.ledger,
        leases=ground.ledger,
        clock=ground.clock,
        ids=ground.ids,
        meter=ground.metrics,
        events=ground.events,
    )


def _holdings(ground: Ground) -> Holdings:
    return Holdings(
        backends=ground.backends,
        policy=ground.policy_control.current,
        revocations=ground.revocations,
        ledger=ground.ledger,
        records=ground.ledger,
        leases=ground.ledger,
        clock=ground.clock,
        meter=ground.metrics,
    )


def _approvals(ground: Ground) -> Approvals:
    return Approvals(
        ledger=ground.ledger,
        records=ground.ledger,
        policy=ground.policy_control.current,
        revocations=ground.revocations,
        clock=ground.clock,
        notifier=ground.webhooks,
        meter=ground.metrics,
    )


async def _measured(ground: Ground) -> bytes:
    """Return the metrics of all processes, or of this one if it is alone."""
    gathered = ground.place.gathered
    return exposition(ground.metrics.families() if gathered is None else await gathered())


async def _health(ground: Ground) -> Mapping[str, str | None]:
    """Say of each thing that issuing depends on what is wrong with it, or None."""
    keys = None
    try:
        ground.ring.signing_kid(ground.clock.now())
    except Unavailable as error:
        keys = error.public
    unsound = ground.ledger.integrity.unsound
    integrity = None if unsound is None else unsound.public
    return {"ledger": ground.ledger.healthy(), "integrity": integrity, "keys": keys}
