"""Durations are read strictly, and written so that they read back the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import Malformed
from broker.core.lifetime import MAX_SECONDS, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("1h", 3600),
        ("1h30m", 5400),
        ("1h30m5s", 5405),
        ("1h5s", 3605),
        ("90m", 5400),
        ("8784h", MAX_SECONDS),
    ],
)
def test_durations_are_read(text: str, seconds: int) -> None:
    """Units in falling order add up."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0s",
        "0h5m",
        "15",
        "m",
        "1.5h",
        "-1s",
        "+1s",
        "1 h",
        " 1h",
        "1h ",
        "1h\n",
        "1H",
        "1d",
        "30m1h",
        "1h1h",
        "1h60m",
        "1m60s",
        "1h90s",
        "01m",
        "1e3s",
        "٣m",
        "8785h",
        "99999999h",
        "9" * 5000 + "s",
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    """Zero, signs, fractions, other units, other orders, other digits and more than a year are refused."""
    with pytest.raises(Malformed, match="malformed_request") as caught:
        parse_duration(text, "block.for")
    assert caught.value.public.startswith("block.for: ")


@given(st.integers(min_value=1, max_value=MAX_SECONDS))
def test_written_durations_read_back(seconds: int) -> None:
    """format_duration and parse_duration are each other's reverse."""
    assert parse_duration(format_duration(seconds)) == seconds


def test_nothing_lasts_no_time() -> None:
    """There is no text for no time at all."""
    with pytest.raises(ValueError, match="at least one second"):
        format_duration(0)
