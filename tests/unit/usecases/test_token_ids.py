"""Ids of tokens that are places in status lists."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from broker.core.rules import Rule
from broker.core.selector import Selector
from broker.core.status_list import OPEN_SECONDS, SIZE, index_of, status_claim
from broker.issuance import TokenIds
from broker.ports import Revocations
from tests.support.fakes import NOW, CountingIds


@dataclass
class Desk:
    """Names tokens by some rules."""

    revocations: Revocations = field(default_factory=Revocations)

    def __post_init__(self) -> None:
        self.ids = TokenIds(CountingIds(), self.revocations, secrets.randbelow)

    def name(self, now: float = NOW) -> tuple[str, int]:
        """Return the list and the place of a new token."""
        token_id = self.ids.new(now, listed=True)
        assert status_claim("", token_id) is not None
        return token_id.partition(".")[0], index_of(token_id)

    def rule(self, selector: Selector, number: int | None, name: str = "") -> None:
        """Put a rule in force."""
        self.revocations.rules.add(Rule(name or f"rule_{number}", selector, number, NOW, "op", "x"))


@pytest.fixture
def desk() -> Desk:
    """A desk without rules."""
    return Desk()


def test_who_wants_no_list_gets_no_place(desk: Desk) -> None:
    """An id like any other."""
    assert status_claim("", desk.ids.new(NOW, listed=False)) is None


def test_every_place_is_given_once_in_no_order(desk: Desk) -> None:
    """All of a list, then the next one is begun."""
    given = [desk.name() for _ in range(SIZE)]
    assert len({name for name, _ in given}) == 1
    places = [place for _, place in given]
    assert sorted(places) == list(range(SIZE))
    following = sum(later == earlier + 1 for earlier, later in pairwise(places))
    assert following < 50  # one is to be expected
    assert desk.name()[0] != given[0][0]


def test_two_processes_never_fill_one_list(desk: Desk) -> None:
    """Each begins its own."""
    assert desk.name()[0] != Desk().name()[0]


def test_a_list_is_open_for_an_hour(desk: Desk) -> None:
    """So that it is over some day. A clock that was set back begins another, too."""
    first = desk.name(NOW)
    assert desk.name(NOW + OPEN_SECONDS - 1)[0] == first[0]
    second = desk.name(NOW + OPEN_SECONDS)
    assert second[0] != first[0]
    assert desk.name(NOW - 1)[0] != second[0]


def test_whoever_came_sooner_is_in_the_same_list(desk: Desk) -> None:
    """Requests that are under way at the same time are not named in the order in which they came."""
    assert desk.name(NOW)[0] == desk.name(NOW - 2)[0] == desk.name(NOW)[0]


def test_no_token_gets_into_a_list_that_a_rule_has_ended(desk: Desk) -> None:
    """A rule for everything ends it, when it comes into force and when it is written; a rule for less does not."""
    first = desk.name()
    desk.rule(Selector(agent="alpha"), 1)
    assert desk.name()[0] == first[0]
    desk.rule(Selector(everything=True), 2)
    second = desk.name()
    assert second[0] != first[0]
    assert desk.name()[0] == second[0]
    desk.rule(Selector(everything=True), None)
    third = desk.name()
    assert third[0] != second[0]
    assert desk.name()[0] == third[0]
    desk.rule(Selector(everything=True), 3, "rule_None")
    assert desk.name()[0] != third[0]


def test_a_rule_that_is_over_has_ended_its_lists_all_the_same(desk: Desk) -> None:
    """Nobody needed a token while it was live."""
    first = desk.name()
    desk.rule(Selector(everything=True), 1)
    desk.revocations.rules.remove(["rule_1"])
    assert desk.name()[0] != first[0]
