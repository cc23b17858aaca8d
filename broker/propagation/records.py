"""What the ledger holds of how far a rule has got."""

from __future__ import annotations

from broker.core.entry import Entry, Kind, entry
from broker.core.propagation import Propagation
from broker.core.rules import Rule


def propagated_entry(rule: Rule, seen: Propagation, now: float) -> Entry:
    """Return the entry that tells how far a rule has got by ``now`` (Unix seconds): agents and names, no people."""
    return entry(
        Kind.RULE_PROPAGATED,
        now,
        ref=rule.id,
        number=rule.number,
        applied=seen.applied,
        replicas=seen.replicas,
        replicas_applied=seen.replicas_applied,
        verifiers=seen.verifiers,
        verifiers_applied=seen.verifiers_applied,
        slowest_ms=None if seen.slowest is None else round(seen.slowest * 1000),
        waiting_for=list(seen.waiting_for),
        refusing=list(seen.refusing),
    )
