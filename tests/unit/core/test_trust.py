"""Ranges of trust: all entries are covered once, and the worst that is known of an entry counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.core.trust import MAX_RANGES, Ranges, Span, Trust, cover

SPANS = st.builds(
    lambda first, length, trust: Span(first, first + length, trust),
    st.integers(0, 60),
    st.integers(0, 20),
    st.sampled_from([Trust.CHANGED, Trust.MISSING, Trust.ARCHIVED]),
)


@given(st.integers(0, 60), st.integers(0, 60), st.booleans(), st.lists(SPANS, max_size=8))
def test_each_entry_is_covered_once(size: int, vouched: int, contradicted: bool, found: list[Span]) -> None:
    """The spans follow one another, and each entry has the worst that any of them says of it."""
    vouched = min(size, vouched)
    rest = Trust.DOUBTFUL if contradicted else Trust.UNVOUCHED
    order = list(Trust)
    told: dict[int, Trust] = {}
    for span in cover(size, vouched, found, contradicted=contradicted):
        for seq in range(span.first, span.end):
            assert seq not in told
            told[seq] = span.trust
    for seq in range(100):
        said = [span.trust for span in found if span.first <= seq < span.end]
        said += [Trust.VOUCHED if seq < vouched else rest] if seq < size else []
        assert told.get(seq) == (max(said, key=order.index) if said else None)


def test_neighbours_are_one_span() -> None:
    """What is the same of neighbours is said once."""
    found = [Span(3, 4, Trust.CHANGED), Span(4, 5, Trust.CHANGED), Span(10, 12, Trust.MISSING)]
    assert cover(10, 8, found, contradicted=True) == [
        Span(0, 3, Trust.VOUCHED),
        Span(3, 5, Trust.CHANGED),
        Span(5, 8, Trust.VOUCHED),
        Span(8, 10, Trust.DOUBTFUL),
        Span(10, 12, Trust.MISSING),
    ]
    assert [str(span) for span in found] == ["entry 3", "entry 4", "entries 10 to 11"]


def test_few_ranges_however_many_entries() -> None:
    """Beyond a bound, more is distrusted than need be, and never less."""
    ranges = Ranges()
    for seq in range(0, 3 * MAX_RANGES, 2):
        ranges.add(seq, seq + 1)
    spans = list(ranges.spans(Trust.CHANGED))
    assert len(spans) == MAX_RANGES
    assert spans[-1].end == 3 * MAX_RANGES - 1
