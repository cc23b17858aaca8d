"""Changes are plain values."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from broker.core.change import Change, EpochIs, Unused
from broker.core.entry import Kind, entry


def test_a_change_cannot_be_altered_on_its_way_to_the_ledger() -> None:
    """What was decided is what is committed."""
    guard = EpochIs(3)
    change = Change(entry(Kind.BROKER_STARTED, 1.0), (guard,))
    with pytest.raises(FrozenInstanceError):
        change.guards = ()  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        guard.epoch = 4  # type: ignore[misc]


def test_equal_guards_are_equal() -> None:
    """The ledger compares them by value."""
    assert Unused(b"k", 1, "proof") == Unused(b"k", 1, "proof")
    assert EpochIs(1) != EpochIs(2)


def test_only_what_says_so_is_urgent() -> None:
    """A change waits its turn unless it is a revocation."""
    assert not Change(entry(Kind.BROKER_STARTED, 1.0)).urgent
