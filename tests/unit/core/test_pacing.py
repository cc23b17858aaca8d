"""How long to wait before trying again, and what ``Retry-After`` means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.pacing import Backoff, retry_after

NOW = 1_795_300_000.0


@given(failures=st.integers(0, 10_000), spread=st.floats(0, 1, exclude_max=True))
def test_waits_are_spread_and_bounded(failures: int, spread: float) -> None:
    """No wait is shorter than half the nominal one, and none is longer than the longest."""
    delay = Backoff(first=0.25, longest=8.0).delay(failures, spread)
    assert 0.125 <= delay <= 8.0


def test_waits_double_until_the_longest() -> None:
    """Each failure in a row doubles the wait."""
    backoff = Backoff(first=1.0, longest=5.0)
    assert [backoff.delay(n, 1.0) for n in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("0", 0.0),
        (" 7 ", 7.0),
        ("9" * 5000, 999_999_999.0),
        ("Sat, 21 Nov 2026 13:06:40 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:99 GMT", None),
    ],
)
def test_retry_after_is_read_without_trust(header: str | None, seconds: float | None) -> None:
    """Seconds and dates are understood; nonsense says nothing, and nothing is negative."""
    assert retry_after(header, NOW) == seconds


def test_retry_after_may_be_a_date() -> None:
    """A date counts from now."""
    assert retry_after("Sun, 22 Nov 2026 22:27:20 GMT", 1_795_386_430.0) == pytest.approx(10.0)
