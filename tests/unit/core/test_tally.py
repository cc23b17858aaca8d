"""Bounded counting."""

from __future__ import annotations

from broker.core.tally import WINDOW, Allowance, Places, Tally


def test_a_tally_is_taken_once() -> None:
    """What was taken is not taken again."""
    tally = Tally()
    for code in ("a", "b", "a"):
        tally.add(code)
    assert tally.take() == {"a": 2, "b": 1}
    assert tally.take() == {}


def test_counts_that_could_not_be_recorded_are_put_back() -> None:
    """They are added to what came in meanwhile, so nothing is lost."""
    tally = Tally()
    tally.add("a")
    taken = tally.take()
    tally.add("a")
    tally.put_back(taken)
    assert tally.take() == {"a": 2}


def test_a_taken_count_does_not_change_any_more() -> None:
    """What is being recorded is not altered by what comes in meanwhile."""
    tally = Tally()
    tally.add("a")
    taken = tally.take()
    tally.add("a")
    assert taken == {"a": 1}


def test_an_allowance_ends_and_comes_back() -> None:
    """The limit holds within a window; the next window starts afresh."""
    allowance = Allowance(2)
    assert [allowance.admit("k", 100.0) for _ in range(3)] == [True, True, False]
    assert not allowance.admit("k", 100.0 + WINDOW - 0.001)
    assert allowance.admit("k", 100.0 + WINDOW)


def test_keys_do_not_share_an_allowance() -> None:
    """One caller cannot use up another's."""
    allowance = Allowance(1)
    assert allowance.admit("a", 0.0)
    assert allowance.admit("b", 0.0)
    assert not allowance.admit("a", 0.0)


def test_a_clock_that_was_set_back_does_not_lock_a_caller_out() -> None:
    """Time before the window's start begins a new window."""
    allowance = Allowance(1)
    assert allowance.admit("k", 1_000_000.0)
    assert allowance.admit("k", 10.0)


def test_memory_is_bounded() -> None:
    """More keys than fit push out the least recently seen, never the ones in use."""
    allowance = Allowance(1, keys=3)
    assert allowance.admit("busy", 0.0)
    for number in range(1000):
        assert allowance.admit(f"stranger-{number}", 0.0)
        assert not allowance.admit("busy", 0.0)
    assert len(allowance._seen) == 3


def test_places_are_for_all_and_for_each() -> None:
    """Nobody takes the room of everybody, and all together not more than there is; what is left is free again."""
    places = Places(most=3, each=2)
    with places.taking("a") as first, places.taking("a") as second, places.taking("a") as third:
        assert (first, second, third) == (True, True, False)
        with places.taking("b") as other, places.taking("c") as last:
            assert (other, last) == (True, False)
    with places.taking("a") as again, places.taking("b") as other, places.taking("c") as last:
        assert (again, other, last) == (True, True, True)
