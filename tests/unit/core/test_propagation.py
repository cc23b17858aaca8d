"""What is said of a rule by what replicas and verifiers told of themselves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.propagation import (
    LEAST_FORGETTING,
    MARGIN,
    MAX_AGE,
    MAX_MOMENTS,
    NAMED,
    Moments,
    Present,
    Ranking,
    Replica,
    Verifier,
    is_verifier_name,
    propagation_of,
)


def replica(name: str = "local", epoch: int = 7, bound: float = 0.0) -> Replica:
    """Return a replica; with a ``bound`` it may answer from older rules for so long."""
    return Replica(id=name, host="h", pid=1, version="1", policy="p", epoch=epoch, max_staleness=bound)


def verifier(name: str, epoch: int, max_age: float = 15.0) -> Verifier:
    """Return a verifier."""
    return Verifier(agent="k8s/payments", name=name, epoch=epoch, max_age=max_age)


def test_a_broker_alone_has_applied_what_it_committed() -> None:
    """Whatever epoch its process has told: it never answers from older rules."""
    present = Present([replica(epoch=3)])
    seen = propagation_of(7, 0.0, present)
    assert (seen.applied, seen.replicas, seen.replicas_applied, seen.verifiers) == (True, 1, 1, 0)
    assert present.is_alone


def test_a_verifier_that_is_behind_is_waited_for_until_it_refuses_by_itself() -> None:
    """Its bound counts from the commit."""
    present = Present([replica()], [verifier("a", 7), verifier("b", 6)])
    early, late = propagation_of(7, 15.0, present), propagation_of(7, 15.0 + MARGIN + 0.1, present)
    assert (early.applied, early.waiting_for, early.refusing) == (False, ("k8s/payments#b",), ())
    assert (late.applied, late.waiting_for, late.refusing) == (True, (), ("k8s/payments#b",))
    assert early.verifiers_applied == late.verifiers_applied == 1


def test_a_replica_that_is_behind_can_keep_a_verifier_young() -> None:
    """So the bound of a verifier begins only when that of the slowest replica is over."""
    present = Present([replica("rep_a", 7, 1.0), replica("rep_b", 6, 30.0)], [verifier("a", 6, 10.0)])
    seen = propagation_of(7, 35.0, present)
    assert (seen.waiting_for, seen.refusing) == (("k8s/payments#a",), ("rep_b",))
    assert propagation_of(7, 40.0 + MARGIN + 0.1, present).applied
    assert (seen.replicas, seen.replicas_applied) == (2, 1)


BOUNDS = st.sampled_from([0.0, 1.0, 2.0, 15.0, 600.0])
EPOCHS = st.integers(0, 5)


@given(
    st.lists(st.tuples(EPOCHS, BOUNDS), max_size=5),
    st.lists(st.tuples(EPOCHS, BOUNDS), max_size=8),
    st.integers(1, 6),
    st.sampled_from([0.0, 1.0, 2.0, 2.1, 3.0, 16.0, 16.1, 17.5, 601.0, 602.0, 1300.0]),
)
def test_of_many_rules_the_same_is_said_as_of_each(
    replicas: list[tuple[int, float]], verifiers: list[tuple[int, float]], number: int, since: float
) -> None:
    """Whether it is applied, and how many are behind."""
    there = [replica(f"rep_{place}", epoch, bound) for place, (epoch, bound) in enumerate(replicas)]
    present = Present(there, [verifier(f"v{place}", *said) for place, said in enumerate(verifiers)])
    ranking, seen = Ranking(present), propagation_of(number, since, present)
    behind = seen.replicas - seen.replicas_applied + seen.verifiers - seen.verifiers_applied
    assert (ranking.is_applied(number, since), ranking.behind(number)) == (seen.applied, behind)


def test_only_some_are_named_but_all_are_counted() -> None:
    """So that an entry holds them, and an answer stays short."""
    present = Present([replica()], [verifier(f"gw-{place}", 1) for place in range(500)])
    seen = propagation_of(7, 0.0, present)
    assert (len(seen.waiting_for), seen.verifiers - seen.verifiers_applied) == (NAMED, 500)


def test_nobody_is_forgotten_while_a_rule_waits_for_them() -> None:
    """Whoever spoke shortly before a commit is there until its bound is over, with the slowest replica."""
    assert LEAST_FORGETTING > MAX_AGE + 30.0 + MARGIN + 60.0


@pytest.mark.parametrize("name", ["a", "gw-7.prod_1", "x" * 64])
def test_names_of_verifiers(name: str) -> None:
    """A pod's name can be one."""
    assert is_verifier_name(name)


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "a#b", "a\n", "ä", "a/b"])
def test_what_is_no_name(name: str) -> None:
    """What could be mistaken for something else in a list, or fills it."""
    assert not is_verifier_name(name)


def test_moments_are_never_before_the_commit() -> None:
    """Of a rule that came with others it says the moment at which they were heard of; of the past, the start."""
    moments = Moments(5, 100.0)
    assert moments.note(8, 110.0)
    assert not moments.note(8, 120.0)
    assert not moments.note(7, 120.0)
    assert [moments.since(number, 130.0) for number in (1, 5, 6, 8, 9)] == [30.0, 30.0, 20.0, 20.0, 0.0]


def test_moments_that_are_forgotten_count_from_a_later_one() -> None:
    """Less than is true may be said."""
    moments = Moments(0, 0.0)
    for number in range(1, MAX_MOMENTS + 10):
        moments.note(number, float(number))
    end = float(MAX_MOMENTS + 9)
    assert moments.since(1, end) <= end - 1
    assert moments.since(MAX_MOMENTS + 9, end) == 0.0
