"""Streams of events are read as browsers read them, however they are cut, and never hold more than one event."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.verifier.events import Event, EventReader, EventTooLong


def read(data: bytes, *, step: int = 1_000_000, most: int = 1_000) -> list[Event]:
    """The events of a stream that arrives in pieces of ``step`` bytes."""
    reader = EventReader(most)
    return [event for at in range(0, len(data), step) for event in reader.read(data[at : at + step])]


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b"event: rule\ndata: x\n\n", [("rule", b"x")]),
        (b"event:rule\ndata:x\n\n", [("rule", b"x")]),
        (b"event:  rule\ndata:  x\n\n", [(" rule", b" x")]),
        (b"data: a\ndata: b\n\n", [("", b"a\nb")]),
        (b"event: rule\n\ndata: x\n\n", [("", b"x")]),
        (b"retry: 1000\n\n: comment\n\nid: 4\nevent: rule\ndata: x\n\n", [("rule", b"x")]),
        (b"\xef\xbb\xbfevent: rule\ndata: x\n\n", [("rule", b"x")]),
        (b"data\n\n", [("", b"")]),
        (b"event: a\nevent: b\ndata: x\n\n", [("b", b"x")]),
        (b"data: not ended\n", []),
        (b"\n\n\n", []),
    ],
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("step", [1, 2, 3, 1_000])
def test_what_is_sent_is_what_is_read(data: bytes, events: list[tuple[str, bytes]], end: bytes, step: int) -> None:
    """Whatever ends its lines, and wherever the pieces are cut; a last line's end may still be to come."""
    sent = data.replace(b"\n", end) + (b":" if end == b"\r" else b"")
    assert read(sent, step=step) == [Event(name, value) for name, value in events]


@pytest.mark.parametrize(
    "data",
    [b"data: " + b"x" * 1_000, b"x" * 1_001, b"data: xxxxxxxx\n" * 100, b"junk: xxxxxxxx\n" * 100],
)
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_what_is_too_long_is_refused(data: bytes, step: int) -> None:
    """One line, or many of one event: nothing grows without a bound."""
    with pytest.raises(EventTooLong):
        read(data, step=step)


def test_a_stream_of_comments_costs_no_memory() -> None:
    """Events that are over are forgotten."""
    assert read(b": x\n\n" * 10_000) == []


@given(data=st.binary(max_size=300), step=st.integers(1, 50))
def test_any_bytes_are_read_the_same_however_they_are_cut(data: bytes, step: int) -> None:
    """The pieces of a stream mean nothing."""
    data += b"\n"
    assert read(data, step=step) == read(data)
