from __future__ import annotations

from broker.metrics import MAX_ROLES, Metrics


def test_what_happens_is_counted() -> None:
    """Every method shows in the text, with its labels."""
    metrics = Metrics()
    metrics.issued("support", "platform")
    metrics.issued("support", "platform")
    metrics.refused("no_role")
    metrics.revoked(durable=True)
    metrics.revoked(durable=False)
    metrics.answered("/oauth2/token", 201, 0.002)
    metrics.batched(3)
    metrics.anchor_failed("offsite", "anchor_unavailable")
    metrics.anchor_is("offsite", lag_seconds=1.5, lag_entries=7, placed_at=None, alarm=True)
    metrics.anchor_is("w1", lag_seconds=0.0, lag_entries=0, placed_at=1234.5, alarm=False)
    metrics.watch("epoch", "Rules ever committed.", lambda: 41)
    text = metrics.text().decode()
    for line in (
        'broker_tokens_issued_total{method="platform",role="support"} 2.0',
        'broker_refusals_total{code="no_role"} 1.0',
        'broker_revocations_total{durable="true"} 1.0',
        'broker_revocations_total{durable="false"} 1.0',
        'broker_request_duration_seconds_count{route="/oauth2/token",status="2xx"} 1.0',
        'broker_request_duration_seconds_bucket{le="0.0025",route="/oauth2/token",status="2xx"} 1.0',
        'broker_ledger_batch_changes_bucket{le="4.0"} 1.0',
        'broker_anchor_failures_total{anchor="offsite",code="anchor_unavailable"} 1.0',
        'broker_anchor_lag_seconds{anchor="offsite"} 1.5',
        'broker_anchor_lag_entries{anchor="offsite"} 7.0',
        'broker_anchor_alarm{anchor="offsite"} 1.0',
        'broker_anchor_alarm{anchor="w1"} 0.0',
        'broker_anchor_last_success_timestamp_seconds{anchor="w1"} 1234.5',
        "broker_epoch 41.0",
    ):
        assert line in text
    assert 'broker_anchor_last_success_timestamp_seconds{anchor="offsite"}' not in text


def test_the_number_of_series_is_bounded() -> None:
    """Policies can be replaced for ever; the roles beyond a bound are counted together."""
    metrics = Metrics()
    for number in range(MAX_ROLES + 100):
        metrics.issued(f"role-{number}", "platform")
    text = metrics.text().decode()
    assert text.count("broker_tokens_issued_total{") == MAX_ROLES + 1
    assert 'broker_tokens_issued_total{method="platform",role="other"} 100.0' in text


def test_two_registries_do_not_meet() -> None:
    """Each broker in a process has its own figures."""
    one, other = Metrics(), Metrics()
    one.refused("no_role")
    assert b"no_role" not in other.text()
