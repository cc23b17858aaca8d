"""Metrics of several workers as one view."""

from __future__ import annotations

import math
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from broker.metrics import Across, Family, Metrics, exposition
from broker.workers.counting import Counting


def value(counting: Counting, sample: str) -> float | None:
    """Return a sample of the view."""
    found = [each.value for family in counting.total() for each in family.samples if each.name == sample]
    return found[0] if found else None


def issued(times: int) -> tuple[Family, ...]:
    """Return what a worker has measured that issued so many tokens."""
    metrics = Metrics()
    for _ in range(times):
        metrics.issued("support", "platform")
        metrics.batched(3)
    return metrics.families()


@given(st.lists(st.tuples(st.sampled_from(["counts", "dies"]), st.integers(0, 2), st.integers(1, 5)), max_size=20))
def test_what_was_counted_never_falls(steps: list[tuple[str, int, int]]) -> None:
    """Whichever workers count and die, in whatever order: the sum is what all of them ever said."""
    counting, living, total = Counting(), dict.fromkeys(range(3), 0), 0
    for what, worker, times in steps:
        if what == "counts":
            living[worker] += times
            total += times
            counting.counted(worker, issued(living[worker]))
        else:
            living[worker] = 0
            counting.ended(worker)
        assert (value(counting, "broker_tokens_issued_total") or 0) == total
        assert (value(counting, "broker_ledger_batch_changes_count") or 0) == total


def test_a_gauge_is_what_its_meaning_makes_of_several() -> None:
    """The least of what must be so everywhere, the most of what each sees a part of, nothing of who does not know."""
    counting = Counting()
    for worker, (sound, epoch, age, streams) in enumerate([(1, 41, math.nan, 2), (0, 40, 7.0, 3)]):
        metrics = Metrics()
        metrics.watch("ledger_sound", "…", partial(float, sound), across=Across.LEAST)
        metrics.watch("epoch", "…", partial(float, epoch))
        metrics.watch("check_age", "…", partial(float, age))
        metrics.watch("streams", "…", partial(float, streams), across=Across.SUM)
        counting.counted(worker, metrics.families())
    view = {name: value(counting, f"broker_{name}") for name in ("ledger_sound", "epoch", "check_age", "streams")}
    assert view == {"ledger_sound": 0, "epoch": 41, "check_age": 7.0, "streams": 5}
    counting.ended(1)
    assert value(counting, "broker_streams") == 2
    assert value(counting, "broker_workers") == 1


def test_the_view_reads_like_the_metrics_of_one() -> None:
    """The text of a single worker's view is its own text, and that of all of them together."""
    metrics = Metrics()
    metrics.issued("support", "platform")
    metrics.answered("/oauth2/token", 200, 0.002)
    metrics.answered("/oauth2/token", 503, 20.0)
    counting = Counting()
    counting.counted(1, metrics.families())
    assert metrics.text() in exposition(counting.total())
    counting.counted(2, metrics.families())
    text = exposition(counting.total()).decode()
    assert 'broker_request_duration_seconds_bucket{le="+Inf",route="/oauth2/token",status="2xx"} 2.0' in text
    assert 'broker_tokens_issued_total{method="platform",role="support"} 2.0' in text
