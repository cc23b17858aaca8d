"""What the use cases of one broker stand on: opened, and closed again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from broker.anchoring import Anchoring, Means
from broker.authenticators.federation import Federation
from broker.clock import SystemClock
from broker.config import Config, MasterKey
from broker.consent import Consent
from broker.core.change import StoredKey
from broker.core.errors import Code, Unavailable
from broker.core.marks import PURPOSE as EPOCH_MARKS
from broker.core.policy import LONGEST_TTL, Policy
from broker.core.tally import Tally
from broker.feed import Feed, FeedBounds
from broker.ids import RandomIds
from broker.lease_backends import GatedBackends
from broker.ledger.sharing.leadership import take_part
from broker.ledger.sharing.view import KeysFollower
from broker.ledger.store import SqlLedger
from broker.metrics import Metrics
from broker.outbound import Destination, Outbound
from broker.policy_control import PolicyControl
from broker.policy_file import load_policy
from broker.ports import Backend, Events, Leadership, Revocations
from broker.revocation import Revocation
from broker.signing.identity_token import IdentityTokenSigner
from broker.signing.keyring import KeyRing
from broker.signing.ledger_identity import checkpoint_opener, checkpoint_signer, own_note_opener
from broker.signing.master_key import KeyCommand, KeyFile, KeyVariable, MasterKeySource, load_master_key
from broker.signing.sealing import Sealer, SealingError, derived_key
from broker.signing.statements import StatementSigner
from broker.timing import SYSTEM
from broker.webhooks import Receiver, Webhooks, webhook_secret
from broker.wiring.anchors import open_anchoring
from broker.wiring.backends import open_backends
from broker.wiring.place import Place
from broker.wiring.propagation import OpenPropagation, open_propagation


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What the use cases of one broker stand on."""

    config: Config
    place: Place
    leadership: Leadership
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
    anchoring: Anchoring
    backends: GatedBackends
    revocation: Revocation
    statements: StatementSigner
    feed: Feed
    propagation: OpenPropagation
    policy_control: PolicyControl
    federation: Federation
    webhooks: Webhooks
    consent: Consent

    @property
    def issuer(self) -> str:
        """The broker's public URL."""
        return self.config.issuer


async def open_ground(
    config: Config, events: Events, stack: AsyncExitStack, own_backends: Mapping[str, Backend], place: Place
) -> Ground:
    """Open what the use cases stand on; ``stack`` closes it again.

    Raises ``BrokerError``, ``MasterKeyError`` or ``SealingError`` with a text for the operator.
    """
    clock, revocations, metrics, ids = SystemClock(), Revocations(), Metrics(), RandomIds()
    master_key = load_master_key(master_key_source(config.master_key))
    sealer = Sealer(master_key)
    ring = KeyRing((), sealer, longest_token=LONGEST_TTL)
    ledger = await SqlLedger.open(
        config.ledger,
        revocations,
        clock=clock,
        sign=checkpoint_signer(ring, clock, issuer=config.issuer),
        open_note=own_note_opener(ring),
        family=place.family,
    )
    stack.push_async_callback(ledger.close)
    leadership = take_part(config.ledger, place.workers)
    stack.push_async_callback(asyncio.to_thread, leadership.close)
    ring.replace(ledger.view.keys)
    ledger.view.follow(keys=_following(ring, events))
    # After the ledger: a policy that is recorded from now on is heard of.
    policy = load_policy(config.policy, config.issuer)
    outbound = await stack.enter_async_context(Outbound())
    identities = IdentityTokenSigner(ring, clock, ids, issuer=config.issuer)
    means = Means(
        ledger=ledger,
        records=ledger,
        open_note=checkpoint_opener(ring, clock, issuer=config.issuer),
        clock=clock,
        timing=SYSTEM,
        meter=metrics,
        events=events,
        leads=leadership.leads,
    )
    anchoring = open_anchoring(config, outbound, means, own_token=identities.own_token)
    # Closed right before the ledger: what everything else records when it ends is placed, too.
    stack.push_async_callback(anchoring.close)
    await anchoring.start()
    marks_key = derived_key(master_key, EPOCH_MARKS).reveal()
    statements = StatementSigner(ring, revocations, marks_key=marks_key, issuer=config.issuer)
    feed = _feed(config, ledger, revocations, statements, clock, metrics, events)
    feed.start()
    stack.push_async_callback(feed.close)
    revocation = _revocation(revocations, place, ledger, clock, ids, metrics, events)
    policy_control = _policy_control(config, policy, ledger, clock, revocation, events)
    ledger.view.follow(policy=policy_control.follow)
    propagation = open_propagation(
        config,
        ledger,
        revocations,
        policy_control,
        since=place.since,
        marks_key=marks_key,
        metrics=metrics,
        events=events,
    )
    stack.push_async_callback(propagation.close)
    revocation.observe(propagation.propagations.made)
    await propagation.own.join()
    federation = Federation(lambda: policy_control.current().issuers, outbound, issuer=config.issuer)
    stack.push_async_callback(federation.close)
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
    return Ground(
        config=config,
        place=place,
        leadership=leadership,
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
        anchoring=anchoring,
        backends=backends,
        revocation=revocation,
        statements=statements,
        feed=feed,
        propagation=propagation,
        policy_control=policy_control,
        federation=federation,
        webhooks=webhooks,
        consent=consent,
    )


def _revocation(
    revocations: Revocations,
    place: Place,
    ledger: SqlLedger,
    clock: SystemClock,
    ids: RandomIds,
    metrics: Metrics,
    events: Events,
) -> Revocation:
    return Revocation(
        revocations=revocations,
        siblings=place.siblings,
        ledger=ledger,
        records=ledger,
        clock=clock,
        ids=ids,
        meter=metrics,
        events=events,
    )


def _following(ring: KeyRing, events: Events) -> KeysFollower:
    def follow(rows: Sequence[StoredKey]) -> None:
        try:
            ring.replace(rows)
        except SealingError as error:
            events.error("keys.not_opened", reason=str(error))

    return follow


def _feed(
    config: Config,
    ledger: SqlLedger,
    revocations: Revocations,
    statements: StatementSigner,
    clock: SystemClock,
    metrics: Metrics,
    events: Events,
) -> Feed:
    settings = config.feed
    return Feed(
        revocations=revocations,
        freshness=ledger.freshness,
        statements=statements,
        bounds=FeedBounds(
            heartbeat_seconds=settings.heartbeat_seconds,
            streams=settings.streams,
            streams_per_agent=settings.streams_per_agent,
        ),
        clock=clock,
        timing=SYSTEM,
        meter=metrics,
        events=events,
    )


def _policy_control(
    config: Config, policy: Policy, ledger: SqlLedger, clock: SystemClock, revocation: Revocation, events: Events
) -> PolicyControl:
    return PolicyControl(
        policy,
        lambda: load_policy(config.policy, config.issuer),
        ledger=ledger,
        records=ledger,
        clock=clock,
        revoke=revocation.revoke,
        events=events,
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
