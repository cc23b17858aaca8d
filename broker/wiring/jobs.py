"""What runs beside the requests, and what metrics watch. No logic."""

from __future__ import annotations

import math
import time
from typing import Final

from broker.auditing import Auditing
from broker.core.pacing import Backoff
from broker.http.surface import Services
from broker.metrics import Across
from broker.reaper import Reaper
from broker.self_check import SelfCheck
from broker.timing import SYSTEM
from broker.upkeep import Job
from broker.wiring.ground import Ground
from broker.wiring.outside import compose_outside

CATCH_UP_SECONDS: Final = 0.05
SIZE_SECONDS: Final = 0.25
STRANGERS_SECONDS: Final = 60.0
COMPACTION_SECONDS: Final = 60.0
PENDING_SECONDS: Final = 1.0
CLOCK_SECONDS: Final = 5.0
PROBE_SECONDS: Final = 2.0
ERASURE_SECONDS: Final = 20.0
DUE_SECONDS: Final = 1.0
ISSUER_KEYS_SECONDS: Final = 30.0
REAPER_SECONDS: Final = 0.1
LEASE_COUNT_SECONDS: Final = 5.0
ANCHOR_SECONDS: Final = 1.0
PRESENCE_SECONDS: Final = 0.1
MEASURE_SECONDS: Final = 5.0
FORGET_SECONDS: Final = 60.0
CHECK_SECONDS: Final = 10.0
OUTSIDE_SECONDS: Final = 60.0
HEED_SECONDS: Final = 1.0


def compose_reaper(ground: Ground) -> Reaper:
    """Return who ends leases."""
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
        entries=lambda: ground.ledger.size,
        since=ground.place.since,
    )


def compose_self_check(ground: Ground) -> SelfCheck:
    """Return what checks the ledger."""
    return SelfCheck(
        ledger=ground.ledger.integrity,
        outside=compose_outside(ground.anchoring.known),
        size=lambda: ground.ledger.size,
        timing=SYSTEM,
        events=ground.events,
        entries_per_second=ground.config.check_entries_per_second,
    )


def watch(ground: Ground, check: SelfCheck) -> None:
    """Let metrics show what the ledger and the rules are like."""
    rules, ledger = ground.revocations.rules, ground.ledger
    ledger.observe(ground.metrics.batched)
    ground.metrics.watch("epoch", "The number of the last revocation rule", lambda: rules.epoch)
    ground.metrics.watch("live_rules", "Revocation rules in force", lambda: len(rules))
    ground.metrics.watch(
        "feed_followers",
        "Who follow the feed of revocation rules",
        lambda: ground.feed.followers,
        across=Across.SUM,
    )
    ground.metrics.watch("ledger_entries", "Entries in the ledger", lambda: ledger.size)
    ground.metrics.watch(
        "ledger_writable",
        "1 if the last transaction was durable",
        lambda: ledger.healthy() is None,
        across=Across.LEAST,
    )
    ground.metrics.watch(
        "ledger_sound",
        "0 if nothing is issued: the ledger is not sound",
        lambda: not check.unsound,
        across=Across.LEAST,
    )
    ground.metrics.watch("ledger_checked_entries", "Entries that were checked", lambda: check.checked)
    ground.metrics.watch(
        "ledger_check_age_seconds",
        "For how long the ledger was not checked completely, or the process runs that checks it",
        lambda: check.seconds_since_pass() if ground.leadership.leads() else math.nan,
    )


def compose_jobs(
    ground: Ground, services: Services, auditing: Auditing, reaper: Reaper, check: SelfCheck
) -> tuple[Job, ...]:
    """Return everything that is done again and again: by the process that leads, or by each for its own memory."""
    ledger, clock, propagations = ground.ledger, ground.clock, ground.propagation.propagations
    return (
        Job("size", SIZE_SECONDS, ledger.measure),
        Job("catching up", CATCH_UP_SECONDS, ledger.freshness.ensure),
        Job("presence", PRESENCE_SECONDS, propagations.step),
        Job("who is there", MEASURE_SECONDS, propagations.measure),
        Job(
            "the silent",
            FORGET_SECONDS,
            lambda: propagations.forget_silent(ground.config.feed.forget_seconds),
            alone=True,
        ),
        Job("leases", REAPER_SECONDS, reaper.step, alone=True),
        Job("lease counts", LEASE_COUNT_SECONDS, lambda: _count_leases(ground)),
        Job("strangers", STRANGERS_SECONDS, auditing.record_strangers),
        Job("pending rules", PENDING_SECONDS, services.revocation.write_pending),
        Job("tasks due", DUE_SECONDS, services.tasks.close_due, alone=True),
        Job("compaction", COMPACTION_SECONDS, lambda: ledger.compact(clock.now()), alone=True),
        Job("ended rules", COMPACTION_SECONDS, lambda: ledger.forget_ended(clock.now())),
        Job("clock", CLOCK_SECONDS, lambda: auditing.watch_clock(time.monotonic()), alone=True),
        Job("recall", CLOCK_SECONDS, lambda: ledger.recall(clock.now())),
        Job("issuer keys", ISSUER_KEYS_SECONDS, lambda: ground.federation.refresh(clock.now())),
        Job("anchors", ANCHOR_SECONDS, ground.anchoring.watch),
        Job("erasure", ERASURE_SECONDS, services.erasure.keep_up, alone=True),
        Job("ledger probe", PROBE_SECONDS, ledger.probe_if_troubled),
        Job("ledger check", CHECK_SECONDS, check.go_through, alone=True),
        Job("ledger outside", OUTSIDE_SECONDS, check.look_outside, alone=True),
        Job("ledger verdict", HEED_SECONDS, check.heed),
    )


async def _count_leases(ground: Ground) -> None:
    oldest = await ground.ledger.oldest_lease_end()
    ground.metrics.backends_are(ground.backends.states())
    waited = 0.0 if oldest is None else max(0.0, ground.clock.now() - oldest)
    ground.metrics.leases_are(await ground.ledger.lease_counts(), waited)
