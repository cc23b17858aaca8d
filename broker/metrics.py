"""Counters, gauges and histograms for operators, with label values from closed or bounded sets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from broker.core.lease import LeaseStatus
from broker.core.propagation import Present

MAX_ROLES: Final = 200
"""Roles come from the policy, which can be replaced any number of times; later ones are counted as ``other``."""

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

_OTHER: Final = "other"
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LONG_SECONDS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 3600.0)
_BATCH: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_ANCHOR_GAUGES: Final = {
    "lag_seconds": "For how long the oldest checkpoint has waited that the anchor does not hold.",
    "lag_entries": "Entries that no checkpoint at the anchor covers.",
    "last_success_timestamp_seconds": "When the anchor last took a checkpoint.",
    "alarm": "1 while somebody must look at the anchor: it lags for too long, or contradicts the ledger.",
}
_PRESENT_GAUGES: Final = {
    "replicas": "Broker processes, or hosts with workers, that share the ledger.",
    "verifiers": "Verifiers that acknowledge rules.",
    "worst_lag_epochs": "By how many epochs the replica or verifier is behind that is the furthest behind.",
    "oldest_acknowledgement_seconds": "For how long the verifier was silent that is silent for the longest.",
}


class Across(Enum):
    """What the values of several processes come to."""

    SUM = "sum"
    MOST = "most"
    LEAST = "least"


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One line of the text format."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """A metric with all its samples. ``kind`` is its type in the text format."""

    name: str
    meaning: str
    kind: str
    across: Across
    samples: tuple[Sample, ...]


class Metrics:
    """Everything that is measured, in a registry of its own. Implements the ``Meter`` port."""

    def __init__(self) -> None:
        """Children of labelled metrics are remembered: looking one up costs more than counting."""
        self._registry = CollectorRegistry()
        self._across = {"broker_requests_under_way": Across.SUM}
        self._issued = self._counter("broker_tokens_issued", "Tokens released, by role and method.", "role", "method")
        self._refused = self._counter("broker_refusals", "Refusals of agents and strangers, by code.", "code")
        self._shed = self._counter("broker_requests_shed", "Requests turned away under load, by what for.", "urgency")
        self._revoked = self._counter("broker_revocations", "Revocations, by whether they were durable.", "durable")
        self._consent = self._counter("broker_approvals", "What happened to requests for approval, by event.", "event")
        self._leases = self._counter(
            "broker_leases", "What happened to leases, by event and backend.", "event", "backend"
        )
        self._endings = Histogram(
            "broker_lease_revocation_seconds",
            "Time from the end of a lease until its backend confirmed that.",
            ("backend",),
            buckets=_LONG_SECONDS,
            registry=self._registry,
        )
        self._alive = Gauge(
            "broker_leases_by_state",
            "Leases that are remembered, by backend and state.",
            ("backend", "state"),
            registry=self._registry,
        )
        self._oldest = Gauge(
            "broker_lease_oldest_unsettled_seconds",
            "For how long the lease has waited to be confirmed dead that waits the longest.",
            registry=self._registry,
        )
        self._backends = Gauge(
            "broker_backend_out_of_order",
            "1 while a backend of leases is left alone because it failed again and again.",
            ("backend",),
            registry=self._registry,
        )
        self._anchor_failures = self._counter(
            "broker_anchor_failures", "Failed attempts to place a checkpoint, by anchor and code.", "anchor", "code"
        )
        self._fed = self._counter("broker_feed_events", "Events sent to those who follow the feed, by event.", "event")
        self._unfollowed = self._counter(
            "broker_feed_dropped", "Followers of the feed whom the broker sent away, by reason.", "reason"
        )
        self._anchors = {
            name: Gauge(f"broker_anchor_{name}", meaning, ("anchor",), registry=self._registry)
            for name, meaning in _ANCHOR_GAUGES.items()
        }
        self._acks = self._counter("broker_acknowledgements", "What verifiers said, by what became of it.", "outcome")
        self._propagations = Histogram(
            "broker_propagation_seconds",
            "Time from the commit of a rule until nobody accepted any more what it hits.",
            buckets=_LONG_SECONDS,
            registry=self._registry,
        )
        self._present = {
            name: Gauge(f"broker_{name}", meaning, registry=self._registry) for name, meaning in _PRESENT_GAUGES.items()
        }
        self._durations = Histogram(
            "broker_request_duration_seconds",
            "Time from the end of a request's header to its answer.",
            ("route", "status"),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "broker_ledger_batch_changes",
            "Changes per ledger transaction.",
            buckets=_BATCH,
            registry=self._registry,
        )
        self._under_way = Gauge(
            "broker_requests_under_way",
            "Requests that were let in and are not yet answered, by what for.",
            ("urgency",),
            registry=self._registry,
        )
        self._roles: set[str] = set()
        self._counters: dict[tuple[object, ...], Counter] = {}
        self._histograms: dict[tuple[str, int], Histogram] = {}

    def issued(self, role: str, method: str) -> None:
        """Count one issued token."""
        if role not in self._roles:
            if len(self._roles) >= MAX_ROLES:
                role = _OTHER
            self._roles.add(role)
        self._count(self._issued, role, method)

    def refused(self, code: str) -> None:
        """Count one refusal, of an agent or of a stranger."""
        self._count(self._refused, code)

    def shed(self, urgency: str) -> None:
        """Count one request that was turned away under load."""
        self._count(self._shed, urgency)

    def revoked(self, *, durable: bool) -> None:
        """Count one revocation."""
        self._count(self._revoked, "true" if durable else "false")

    def consent(self, event: str) -> None:
        """Count what happens to requests for approval."""
        self._count(self._consent, event)

    def lease(self, event: str, backend: str) -> None:
        """Count what happens to leases."""
        self._count(self._leases, event, backend)

    def lease_ended(self, backend: str, seconds: float) -> None:
        """Record how long after its end a backend confirmed that a lease is dead."""
        self._endings.labels(backend).observe(seconds)

    def leases_are(self, counts: Mapping[tuple[str, LeaseStatus], int], oldest_seconds: float) -> None:
        """Show how many leases there are by backend and state, and how long the oldest has waited to be dead."""
        self._alive.clear()
        for (backend, status), count in counts.items():
            self._alive.labels(backend, status.value).set(count)
        self._oldest.set(oldest_seconds)

    def backends_are(self, states: Mapping[str, str]) -> None:
        """Show which backends are left alone: ``open`` among ``closed``, ``half_open`` and ``open``."""
        for backend, state in states.items():
            self._backends.labels(backend).set(state == "open")

    def fed(self, event: str, followers: int) -> None:
        """Count an event as often as it was sent to those who follow the feed."""
        self._fed.labels(event).inc(followers)

    def unfollowed(self, why: str) -> None:
        """Count a follower of the feed whom the broker sent away."""
        self._count(self._unfollowed, why)

    def anchor_failed(self, anchor: str, code: str) -> None:
        """Count one failed attempt to place a checkpoint."""
        self._count(self._anchor_failures, anchor, code)

    def anchor_is(
        self, anchor: str, *, lag_seconds: float, lag_entries: int, placed_at: float | None, alarm: bool
    ) -> None:
        """Show how far behind an anchor is, when it last took a checkpoint, and whether to look."""
        self._anchors["lag_seconds"].labels(anchor).set(lag_seconds)
        self._anchors["lag_entries"].labels(anchor).set(lag_entries)
        self._anchors["alarm"].labels(anchor).set(alarm)
        if placed_at is not None:
            self._anchors["last_success_timestamp_seconds"].labels(anchor).set(placed_at)

    def acknowledged(self, outcome: str) -> None:
        """Count one acknowledgement."""
        self._count(self._acks, outcome)

    def propagated(self, seconds: float) -> None:
        """Record how long after its commit nobody accepted any more what a rule hits."""
        self._propagations.observe(seconds)

    def present_are(self, present: Present, epoch: int) -> None:
        """Show who is there, and how far behind ``epoch`` they are."""
        epochs = [*(each.epoch for each in present.replicas), *(each.epoch for each in present.verifiers)]
        shown = {
            "replicas": len(present.replicas),
            "verifiers": len(present.verifiers),
            "worst_lag_epochs": max(0, epoch - min(epochs, default=epoch)),
            "oldest_acknowledgement_seconds": max((each.silent for each in present.verifiers), default=0.0),
        }
        for name, value in shown.items():
            self._present[name].set(value)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Record how long an answer took. ``route`` is a route's path template; only the status class is kept."""
        key = (route, status // 100)
        child = self._histograms.get(key)
        if child is None:
            child = self._histograms[key] = self._durations.labels(route, f"{key[1]}xx")
        child.observe(seconds)

    def batched(self, changes: int) -> None:
        """Record how many changes one ledger transaction held."""
        self._batches.observe(changes)

    def watch(self, name: str, meaning: str, read: Callable[[], float], *, across: Across = Across.MOST) -> None:
        """Show what ``read`` returns as the gauge ``broker_<name>``; it is called once per scrape.

        ``across`` says what the values of several processes come to; a process whose value is NaN has none.
        """
        self._across[f"broker_{name}"] = across
        Gauge(f"broker_{name}", meaning, registry=self._registry).set_function(read)

    def watch_under_way(self, urgency: str, read: Callable[[], float]) -> None:
        """Show what ``read`` returns as the number of requests of one kind that are under way."""
        self._under_way.labels(urgency).set_function(read)

    def families(self) -> tuple[Family, ...]:
        """Return everything that this process has measured."""
        return tuple(self._family(metric) for metric in self._registry.collect())

    def text(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return exposition(self.families())

    def _family(self, metric: Metric) -> Family:
        summed = metric.type in {"counter", "histogram"}
        return Family(
            metric.name,
            metric.documentation,
            metric.type,
            Across.SUM if summed else self._across.get(metric.name, Across.MOST),
            tuple(
                Sample(each.name, tuple(sorted(each.labels.items())), each.value)
                for each in metric.samples
                if not math.isnan(each.value)
            ),
        )

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self._registry)

    def _count(self, counter: Counter, *labels: str) -> None:
        key = (counter, *labels)
        child = self._counters.get(key)
        if child is None:
            child = self._counters[key] = counter.labels(*labels)
        child.inc()


def exposition(families: Iterable[Family]) -> bytes:
    """Return metrics in the Prometheus text format."""
    registry = CollectorRegistry()
    registry.register(_Collected(families))
    return generate_latest(registry)


class _Collected(Collector):
    """What was measured before, as the library wants it."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._metrics = [_metric(family) for family in families]

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _metric(family: Family) -> Metric:
    metric = Metric(family.name, family.meaning, family.kind)
    for sample in family.samples:
        metric.add_sample(sample.name, dict(sample.labels), sample.value)
    return metric
