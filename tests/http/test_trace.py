from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.http.trace import trace_of

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
FORM = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def test_a_callers_trace_goes_on() -> None:
    """The trace id and the sampling flag are the caller's; the span is our own."""
    trace = trace_of("req_1", PARENT)
    assert trace.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert FORM.fullmatch(trace.traceparent)
    assert trace.traceparent.startswith("00-4bf92f3577b34da6a3ce929d0e0e4736-")
    assert trace.traceparent.endswith("-01")
    assert "00f067aa0ba902b7" not in trace.traceparent


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "garbage",
        PARENT.upper(),
        PARENT + "-more",
        PARENT.replace("00-", "01-", 1),
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        PARENT[:-1] + "\n",
        "x" * 100_000,
    ],
)
def test_a_trace_begins_here_if_there_is_none(header: str | None) -> None:
    """Without a well-formed header a trace begins, and nothing of a malformed one is kept."""
    trace = trace_of("req_1", header)
    assert FORM.fullmatch(trace.traceparent)
    assert trace.trace_id != "4bf92f3577b34da6a3ce929d0e0e4736"
    assert trace == trace_of("req_1", None)


@given(st.text(max_size=80))
def test_no_header_gets_into_the_log(header: str) -> None:
    """Whatever the header, the trace id is 32 hex digits."""
    assert re.fullmatch(r"[0-9a-f]{32}", trace_of("req_1", header).trace_id)


def test_different_requests_have_different_traces() -> None:
    """Two requests without a trace begin two."""
    assert trace_of("req_1", None).trace_id != trace_of("req_2", None).trace_id
