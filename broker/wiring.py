"""The composition root: the only module that names every adapter. It has no logic of its own."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Final

from broker.actions import Actions
from broker.admission import Admission
from broker.approvals import Approvals
from broker.auditing import Auditing
from broker.authenticators.client_assertion import ClientAssertion
from broker.authenticators.dispatch import Dispatch
from broker.authenticators.federation import Federation
from broker.clock import SystemClock
from broker.config import Config, MasterKey
from broker.consent import Consent
from broker.core.dpop import make_nonce
from broker.core.errors import Code, Unavailable
from broker.core.pacing import Backoff
from broker.core.policy import LONGEST_TTL, Policy
from broker.core.tally import Tally
from broker.core.token_check import TokenCheck
from broker.http.surface import Services, Site
from broker.ids import RandomIds
from broker.introspection import Introspection
from broker.issuance import Applicants, IdentityTokens, Intake, Issuance
from broker.key_rotation import KeyRotation
from broker.lease_backends import GatedBackends
from broker.lease_wiring import JweEnvelope, open_backends
from broker.leasing import Holdings, Leasing, Oversight
from broker.ledger.store import SqlLedger
from broker.metrics import Metrics
from broker.outbound import Destination, Outbound
from broker.policy_control import PolicyControl
from broker.policy_file import load_policy
from broker.ports import Backend, Events, Revocations
from broker.reaper import Reaper
from broker.registration import Registration
from broker.revocation import Revocation
from broker.right_sizing import RightSizing
from broker.signing.access_token import AccessTokenSigner
from broker.signing.identity_token import IdentityTokenSigner
from broker.signing.keyring import KeyRing
from broker.signing.ledger_identity import checkpoint_signer
from broker.signing.master_key import KeyCommand, KeyFile, KeyVariable, MasterKeySource, load_master_key
from broker.signing.sealing import Sealer, derived_key
from broker.signing.snapshot import SnapshotSigner
from broker.tasks import Tasks
from broker.timing import SYSTEM
from broker.upkeep import Job
from broker.webhooks import Receiver, Webhooks, webhook_secret

STRANGERS_SECONDS: Final = 60.0
COMPACTION_SECONDS: Final = 60.0
PENDING_SECONDS: Final = 1.0
CLOCK_SECONDS: Final = 5.0
PROBE_SECONDS: Final = 2.0
DUE_SECONDS: Final = 1.0
ISSUER_KEYS_SECONDS: Final = 30.0
REAPER_SECONDS: Final = 0.1
LEASE_COUNT_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """A composed broker: what HTTP serves, what runs beside it, and what a signal can ask for."""

    config: Config
    services: Services
    site: Site
    auditing: Auditing
    policy_control: PolicyControl
    jobs: tuple[Job, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ground:
    """What the use cases of one broker stand on."""

    config: Config
    events: Events
    clock: SystemClock
    ids: RandomIds
    metrics: Metrics
    strangers: Tally
    revocations: Revocations
    ring: KeyRing
    identities: IdentityTokenSigner
    nonce_key: bytes
    fingerprint_key: bytes
    ledger: SqlLedger
    backends: GatedBackends
    revocation: Revocation
    policy_control: PolicyControl
    federation: Federation
    webhooks: Webhooks
    consent: Consent

    @property
    def issuer(self) -> str:
        return self.config.issuer


@asynccontextmanager
async def open_broker(
    config: Config, events: Events, *, own_backends: Mapping[str, Backend] | None = None
) -> AsyncIterator[Broker]:
    """Open everything that a broker needs, and close it again, the ledger last.

    ``own_backends`` are backends of leases besides those that are configured, by their names.

    Raises ``BrokerError``, ``MasterKeyError`` or ``SealingError`` with a text for the operator.
    """
    async with AsyncExitStack() as stack:
        ground = await _open_ground(config, events, stack, own_backends or {})
        services = _services(ground, site_of(config))
        reaper = _reaper(ground)
        stack.push_async_callback(reaper.close)
        stack.push_async_callback(services.leasing.close)
        await services.approvals.announce_waiting()
        auditing = Auditing(ledger=ground.ledger, clock=ground.clock, events=events, strangers=ground.strangers)
        _watch(ground)
        yield Broker(
            config=config,
            services=services,
            site=site_of(config),
            auditing=auditing,
            policy_control=ground.policy_control,
            jobs=_jobs(ground, services, auditing, reaper),
        )


async def _open_ground(
    config: Config, events: Events, stack: AsyncExitStack, own_backends: Mapping[str, Backend]
) -> _Ground:
    clock, revocations, metrics, ids = SystemClock(), Revocations(), Metrics(), RandomIds()
    master_key = load_master_key(master_key_source(config.master_key))
    sealer = Sealer(master_key)
    ring = KeyRing((), sealer, longest_token=LONGEST_TTL)
    policy = load_policy(config.policy, config.issuer)
    sign = checkpoint_signer(ring, clock, issuer=config.issuer)
    ledger = await SqlLedger.open(config.ledger, revocations, clock=clock, sign=sign)
    stack.push_async_callback(ledger.close)
    ring.replace(await ledger.keys())
    outbound = await stack.enter_async_context(Outbound())
    revocation = _revocation(revocations, ledger, clock, ids, metrics, events)
    policy_control = _policy_control(config, policy, ledger, clock, revocation)
    federation = Federation(lambda: policy_control.current().issuers, outbound, issuer=config.issuer)
    stack.push_async_callback(federation.close)
    identities = IdentityTokenSigner(ring, clock, ids, issuer=config.issuer)
    backends = open_backends(
        config.backends, own_backends, master_key=master_key, clock=clock, own_token=identities.own_token
    )
    stack.push_async_callback(backends.close)
    webhooks = Webhooks(webhook_receivers(config), outbound, api=config.api_audience, clock=clock, events=events)
    webhooks.start()
    stack.push_async_callback(webhooks.close)
    consent = Consent(
        ledger=ledger,
        records=ledger,
        policy=policy_control.current,
        revocations=revocations,
        clock=clock,
        notifier=webhooks,
        meter=metrics,
        events=events,
    )
    return _Ground(
        config=config,
        events=events,
        clock=clock,
        ids=ids,
        metrics=metrics,
        strangers=Tally(),
        revocations=revocations,
        ring=ring,
        identities=identities,
        nonce_key=derived_key(master_key, "dpop-nonces").reveal(),
        fingerprint_key=derived_key(master_key, "lease-fingerprints").reveal(),
        ledger=ledger,
        backends=backends,
        revocation=revocation,
        policy_control=policy_control,
        federation=federation,
        webhooks=webhooks,
        consent=consent,
    )


def _revocation(
    revocations: Revocations, ledger: SqlLedger, clock: SystemClock, ids: RandomIds, metrics: Metrics, events: Events
) -> Revocation:
    return Revocation(
        revocations=revocations,
        ledger=ledger,
        records=ledger,
        clock=clock,
        ids=ids,
        meter=metrics,
        events=events,
    )


def _policy_control(
    config: Config, policy: Policy, ledger: SqlLedger, clock: SystemClock, revocation: Revocation
) -> PolicyControl:
    return PolicyControl(
        policy,
        lambda: load_policy(config.policy, config.issuer),
        ledger=ledger,
        records=ledger,
        clock=clock,
        revoke=revocation.revoke,
    )


def _services(ground: _Ground, site: Site) -> Services:
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
        ),
        introspection=Introspection(check=check, policy=ground.policy_control.current, clock=clock),
        revocation=ground.revocation,
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
            confirmed=ledger.accept_behind,
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
        records=ledger,
        revocations=revocations,
        token_check=check,
        jwks=ground.ring.jwks,
        snapshot=SnapshotSigner(ground.ring, revocations, issuer=ground.issuer).at,
        health=lambda: _health(ground),
        nonce=lambda now: make_nonce(ground.nonce_key, now),
        clock=clock,
        ids=ids,
        metrics=metrics,
        events=ground.events,
    )


def _applicants(ground: _Ground, site: Site, authenticator: Dispatch, check: TokenCheck) -> Applicants:
    return Applicants(
        authenticator=authenticator,
        check=check,
        token_endpoint=site.token_endpoint,
        api_audience=ground.config.api_audience,
        nonce_key=ground.nonce_key if ground.config.dpop_nonces else None,
    )


def _intake(ground: _Ground, applicants: Applicants) -> Intake:
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


def _issuance(ground: _Ground, applicants: Applicants, intake: Intake) -> Issuance:
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
        meter=ground.metrics,
    )


def _identities(ground: _Ground, applicants: Applicants, intake: Intake) -> IdentityTokens:
    return IdentityTokens(
        issuer=ground.issuer,
        applicants=applicants,
        intake=intake,
        policy=ground.policy_control.current,
        revocations=ground.revocations,
        signer=ground.identities,
        ledger=ground.ledger,
        clock=ground.clock,
        ids=ground.ids,
        meter=ground.metrics,
    )


def _actions(ground: _Ground, check: TokenCheck) -> Actions:
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


def _leasing(ground: _Ground) -> Leasing:
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


def _holdings(ground: _Ground) -> Holdings:
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


def _reaper(ground: _Ground) -> Reaper:
    settings = ground.config.leases
    return Reaper(
        backends=ground.backends,
        revocations=ground.revocations,
        ledger=ground.ledger,
        leases=ground.ledger,
        clock=ground.clock,
        spread=SYSTEM.spread,
        meter=ground.metrics,
        events=ground.events,
        attempts=settings.attempts,
        backoff=Backoff(first=settings.first_pause_seconds, longest=settings.longest_pause_seconds),
        restored=ground.ledger.is_behind,
    )


def _approvals(ground: _Ground) -> Approvals:
    return Approvals(
        ledger=ground.ledger,
        records=ground.ledger,
        policy=ground.policy_control.current,
        revocations=ground.revocations,
        clock=ground.clock,
        notifier=ground.webhooks,
        meter=ground.metrics,
    )


async def _health(ground: _Ground) -> Mapping[str, str | None]:
    """Say of each thing that issuing depends on what is wrong with it, or None."""
    keys = None
    try:
        ground.ring.signing_kid(ground.clock.now())
    except Unavailable as error:
        keys = error.public
    return {"ledger": ground.ledger.healthy(), "keys": keys}


def _watch(ground: _Ground) -> None:
    rules, ledger = ground.revocations.rules, ground.ledger
    ledger.observe(ground.metrics.batched)
    ground.metrics.watch("epoch", "How many revocation rules have ever been committed", lambda: rules.epoch)
    ground.metrics.watch("live_rules", "Revocation rules in force", lambda: len(rules))
    ground.metrics.watch("ledger_entries", "Entries in the ledger", lambda: ledger.size)
    ground.metrics.watch("ledger_writable", "1 if the last transaction was durable", lambda: ledger.healthy() is None)


def _jobs(ground: _Ground, services: Services, auditing: Auditing, reaper: Reaper) -> tuple[Job, ...]:
    ledger, clock = ground.ledger, ground.clock
    return (
        Job("leases", REAPER_SECONDS, reaper.step),
        Job("lease counts", LEASE_COUNT_SECONDS, lambda: _count_leases(ground)),
        Job("strangers", STRANGERS_SECONDS, auditing.record_strangers),
        Job("pending rules", PENDING_SECONDS, services.revocation.write_pending),
        Job("tasks due", DUE_SECONDS, services.tasks.close_due),
        Job("compaction", COMPACTION_SECONDS, lambda: ledger.compact(clock.now())),
        Job("clock", CLOCK_SECONDS, lambda: auditing.watch_clock(time.monotonic())),
        Job("recall", CLOCK_SECONDS, lambda: ledger.recall(clock.now())),
        Job("issuer keys", ISSUER_KEYS_SECONDS, lambda: ground.federation.refresh(clock.now())),
        Job("ledger probe", PROBE_SECONDS, ledger.probe_if_troubled),
    )


async def _count_leases(ground: _Ground) -> None:
    oldest = await ground.ledger.oldest_lease_end()
    waited = 0.0 if oldest is None else max(0.0, ground.clock.now() - oldest)
    ground.metrics.leases_are(await ground.ledger.lease_counts(), waited)


def site_of(config: Config) -> Site:
    """Return the public URLs and limits of a configured broker."""
    limits = config.limits
    return Site(
        issuer=config.issuer,
        body_bytes=limits.body_bytes,
        request_seconds=limits.request_seconds,
        failures_per_minute=limits.unauthenticated_per_minute,
        trusted_proxies=tuple(ip_network(network) for network in config.listen.trusted_proxies),
        access_log=config.log.access,
    )


def webhook_receivers(config: Config) -> list[Receiver]:
    """Return who is told of requests for approval. Raises ``Unavailable`` if a secret cannot be used."""
    receivers = []
    for place, hook in enumerate(config.webhooks):
        where = hook.secret_file or f"the variable {hook.secret_environment}"
        try:
            text = Path(where).read_text() if hook.secret_file else os.environ.get(hook.secret_environment or "", "")
        except (OSError, UnicodeDecodeError) as error:
            raise Unavailable(Code.INTERNAL, f"webhooks[{place}]: {where} cannot be read") from error
        destination = Destination(allow_http=hook.allow_http, allow_private=hook.allow_private, ca_file=hook.ca_file)
        receivers.append(
            Receiver(
                url=hook.url,
                secret=webhook_secret(text, f"webhooks[{place}]: {where}"),
                events=hook.events,
                destination=destination,
            )
        )
    return receivers


def master_key_source(settings: MasterKey) -> MasterKeySource:
    """Return where the master key comes from; the settings were checked to name exactly one source."""
    if settings.file is not None:
        return KeyFile(Path(settings.file))
    if settings.environment is not None:
        return KeyVariable(settings.environment)
    return KeyCommand(settings.command or ())
