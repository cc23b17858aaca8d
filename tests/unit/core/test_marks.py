"""Marks of epochs: equal for whoever has the key, different for every epoch and key."""

from __future__ import annotations

import pytest

from broker.core.marks import is_mark, mark_of

KEY = b"k" * 32


def test_a_mark_belongs_to_one_epoch_and_one_key() -> None:
    """Marks differ where the epoch or the key does, and are of one length."""
    marks = {mark_of(key, epoch) for key in (KEY, b"l" * 32) for epoch in (0, 1, 2, 41, 2**40)}
    assert len(marks) == 10
    assert {len(mark) for mark in marks} == {22}
    assert is_mark(KEY, 41, mark_of(KEY, 41))


@pytest.mark.parametrize("mark", ["", "x", mark_of(KEY, 42), mark_of(KEY, 41) + "=", "\ud800", "é"])
def test_what_is_not_the_mark_is_not_taken_for_it(mark: str) -> None:
    """Other marks, other spellings and text that is no mark at all are refused."""
    assert not is_mark(KEY, 41, mark)
