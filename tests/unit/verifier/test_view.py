"""How old a view of the revocation rules is, and that it never goes back."""

from math import inf

import pytest

from broker.core.errors import Code, Unavailable
from broker.core.feed import Heartbeat, RuleStatement
from broker.core.rules import Rule, RuleIndex
from broker.core.selector import Selector
from broker.core.snapshot import Snapshot
from broker.verifier.view import MAX_PENDING, News, RolledBack, View
from tests.support.virtual_time import VirtualTime

BOUND = 10.0
LEEWAY = 5.0


@pytest.fixture
def time() -> VirtualTime:
    """Time that the test moves."""
    return VirtualTime()


@pytest.fixture
def view(time: VirtualTime) -> View:
    """A view without a snapshot."""
    return View(time.timing(), max_staleness=BOUND, leeway=LEEWAY)


def snapshot(epoch: int, issued_at: float) -> Snapshot:
    """A snapshot without rules."""
    return Snapshot(RuleIndex(epoch=epoch), epoch, int(issued_at), int(issued_at) + 300, "mark")


def test_before_the_first_snapshot_nothing_is_accepted(view: View) -> None:
    """A verifier that knows nothing of revocations refuses, and says when to come back."""
    assert view.age() == inf
    assert view.epoch is None
    with pytest.raises(Unavailable) as caught:
        view.require_fresh()
    assert caught.value.code is Code.VIEW_STALE
    assert caught.value.retry_after == 1


def test_a_view_is_good_up_to_the_bound_and_no_longer(view: View, time: VirtualTime) -> None:
    """Staleness begins exactly after the bound."""
    view.accept(snapshot(3, time.wall), view.now())
    time.advance(BOUND)
    view.require_fresh()
    time.advance(0.001)
    with pytest.raises(Unavailable):
        view.require_fresh()


def test_a_wall_clock_set_back_does_not_make_a_view_young(view: View, time: VirtualTime) -> None:
    """Time that has passed stays passed."""
    view.accept(snapshot(3, time.wall), view.now())
    time.advance(BOUND + 1)
    time.wall -= 3600
    assert not view.is_fresh()


def test_a_machine_that_slept_has_an_old_view(view: View, time: VirtualTime) -> None:
    """When only the wall clock saw the time pass, it counts all the same."""
    view.accept(snapshot(3, time.wall), view.now())
    time.wall += BOUND + 1
    assert not view.is_fresh()


def test_age_counts_from_the_brokers_statement(view: View, time: VirtualTime) -> None:
    """A copy that was kept somewhere on the way is as old as the broker says it is, less what clocks may differ."""
    view.accept(snapshot(3, time.wall - 12), view.now())
    assert view.age() == pytest.approx(12 - LEEWAY)
    time.advance(4)
    assert not view.is_fresh()


def test_age_counts_from_before_the_question(view: View, time: VirtualTime) -> None:
    """A slow answer is old when it arrives: rules may have been made while it was on its way."""
    asked = view.now()
    time.advance(4)
    view.accept(snapshot(3, time.wall - 4), asked)
    assert view.age() == pytest.approx(4)


def test_a_lower_epoch_is_refused(view: View, time: VirtualTime) -> None:
    """An old copy cannot bring revoked tokens back to life, and the view goes on aging."""
    view.accept(snapshot(3, time.wall), view.now())
    time.advance(2)
    with pytest.raises(RolledBack):
        view.accept(snapshot(2, time.wall), view.now())
    assert view.epoch == 3
    assert view.age() == pytest.approx(2)


def test_an_older_copy_of_the_same_epoch_is_refused(view: View, time: VirtualTime) -> None:
    """It may lack a rule that stands above every epoch because it is not durable yet."""
    view.accept(snapshot(3, time.wall), view.now())
    with pytest.raises(RolledBack):
        view.accept(snapshot(3, time.wall - 1), view.now())


def test_the_same_statement_again_does_not_make_a_view_younger(view: View, time: VirtualTime) -> None:
    """Whoever keeps the verifier from hearing news by repeating the last snapshot gains no time by it."""
    statement = snapshot(3, time.wall)
    for _ in range(3):
        view.accept(statement, view.now())
        time.advance(3)
    assert view.age() == pytest.approx(9)


def test_an_old_copy_with_news_is_taken_but_is_not_fresh(view: View, time: VirtualTime) -> None:
    """Rules that are learned late are learned; they do not make the view young."""
    view.accept(snapshot(3, time.wall), view.now())
    view.accept(snapshot(4, time.wall - 60), view.now())
    assert view.epoch == 4
    assert not view.is_fresh()


# --- one statement after the other


def stated(number: int | None, previous: int, at: float, rule_id: str | None = None) -> RuleStatement:
    """The statement of one rule, which is about an agent of the same name."""
    name = rule_id or f"rule_{number}"
    rule = Rule(name, Selector(agent=name), number, at, "", "", ends_at=None if number is None else at + 900)
    return RuleStatement(rule, previous, f"mark {number}", int(at), int(at) + 300)


def heartbeat(epoch: int, at: float, *pending: str) -> Heartbeat:
    """A heartbeat."""
    return Heartbeat(epoch, f"mark {epoch}", frozenset(pending), int(at), int(at) + 300)


@pytest.fixture
def known(view: View, time: VirtualTime) -> View:
    """A view at epoch 3."""
    view.accept(snapshot(3, time.wall), view.now())
    return view


def test_without_a_snapshot_every_statement_shows_a_gap(view: View, time: VirtualTime) -> None:
    """Nobody knows what was before it."""
    assert view.take(stated(1, 0, time.wall)) is News.GAP
    assert view.confirm(heartbeat(0, time.wall), view.now()) is News.GAP
    assert view.age() == inf


def test_the_next_rule_is_added(known: View, time: VirtualTime) -> None:
    """And the view is at its epoch, with its mark; it is no younger by it."""
    time.advance(2)
    assert known.take(stated(4, 3, time.wall)) is News.TAKEN
    assert (known.epoch, known.mark) == (4, "mark 4")
    assert known.rules.get("rule_4") is not None
    assert known.age() == pytest.approx(2)


@pytest.mark.parametrize(
    ("number", "previous", "news"),
    [(3, 2, News.KNOWN), (2, 0, News.KNOWN), (5, 4, News.GAP), (6, 2, News.GAP), (900, 3, News.TAKEN)],
)
def test_a_rule_is_the_next_one_or_it_is_not(
    known: View, time: VirtualTime, number: int, previous: int, news: News
) -> None:
    """Repeated, or after one that is missing; numbers jump only where the broker says so."""
    assert known.take(stated(number, previous, time.wall)) is news
    assert known.epoch == (number if news is News.TAKEN else 3)
    assert len(known.rules) == (news is News.TAKEN)


def test_a_rule_without_a_number_counts_at_once_and_then_gets_it(known: View, time: VirtualTime) -> None:
    """What was issued after it lives again as soon as its number is known."""
    assert known.take(stated(None, 3, time.wall, "p")) is News.TAKEN
    assert known.pending == {"p"}
    assert known.rules.killer([("agent", "p")], 1_000) is not None
    assert known.take(stated(4, 3, time.wall, "p")) is News.TAKEN
    assert known.pending == frozenset()
    assert known.rules.killer([("agent", "p")], 3) is not None
    assert known.rules.killer([("agent", "p")], 4) is None


def test_a_number_is_never_taken_away_again(known: View, time: VirtualTime) -> None:
    """An old statement of a rule that was not durable then would end what was issued since."""
    known.take(stated(4, 3, time.wall, "p"))
    assert known.take(stated(None, 3, time.wall, "p")) is News.KNOWN
    assert known.rules.killer([("agent", "p")], 4) is None


def test_rules_without_numbers_are_bounded(known: View, time: VirtualTime) -> None:
    """So many at once come by a snapshot."""
    for number in range(MAX_PENDING):
        known.take(stated(None, 3, time.wall, f"p{number}"))
    assert known.take(stated(None, 3, time.wall, "one more")) is News.GAP
    assert len(known.rules) == MAX_PENDING


def test_a_heartbeat_makes_the_view_as_young_as_it_says(known: View, time: VirtualTime) -> None:
    """By the broker's clock, less what clocks may differ; the same one again does nothing."""
    time.advance(9)
    old = heartbeat(3, time.wall - 7)
    assert known.confirm(old, known.now()) is News.TAKEN
    assert known.age() == pytest.approx(2)
    time.advance(3)
    assert known.confirm(old, known.now()) is News.KNOWN
    assert known.age() == pytest.approx(5)


@pytest.mark.parametrize(
    ("epoch", "after", "pending", "news"),
    [
        (2, 5, (), News.KNOWN),
        (3, -1, (), News.KNOWN),
        (4, 5, (), News.GAP),
        (3, 5, ("q",), News.GAP),
    ],
)
def test_a_heartbeat_that_does_not_fit_makes_nothing_younger(
    known: View, time: VirtualTime, epoch: int, after: float, pending: tuple[str, ...], news: News
) -> None:
    """Of an earlier epoch or moment: known. Of another epoch, or other pending rules: something is missing."""
    time.advance(5)
    assert known.confirm(heartbeat(epoch, time.wall - 5 + after, *pending), known.now()) is news
    assert known.age() == pytest.approx(5)


def test_a_withdrawn_rule_shows_as_a_gap(known: View, time: VirtualTime) -> None:
    """Only a snapshot takes a rule away, and an older one never does."""
    before = snapshot(3, time.wall)
    time.advance(1)
    known.take(stated(None, 3, time.wall, "p"))
    assert known.confirm(heartbeat(3, time.wall), known.now()) is News.GAP
    with pytest.raises(RolledBack):
        known.accept(before, known.now())
    assert known.pending == {"p"}
    known.accept(snapshot(3, time.wall), known.now())
    assert known.pending == frozenset()


def test_ended_rules_are_forgotten_by_the_brokers_clock(known: View, time: VirtualTime) -> None:
    """A clock that runs ahead here brings no token back; memory is bounded by what lives."""
    known.take(stated(4, 3, time.wall))
    time.wall += 10_000
    known.confirm(heartbeat(4, time.wall - 10_000 + 61), known.now())
    assert len(known.rules) == 1
    known.confirm(heartbeat(4, time.wall), known.now())
    assert len(known.rules) == 0
    assert known.epoch == 4


def test_whoever_left_accepts_nothing(known: View, time: VirtualTime) -> None:
    """Until there is a younger statement."""
    known.leave()
    assert not known.is_fresh()
    known.confirm(heartbeat(3, time.wall), known.now())
    assert known.is_fresh()


def test_news_are_told_once(view: View, time: VirtualTime) -> None:
    """Each rule when it begins to count, by whatever way it comes; not when it gets its number."""
    told: list[str] = []
    view.tell(lambda rules: told.extend(rule.id for rule in rules))
    view.accept(snapshot(3, time.wall), view.now())
    view.take(stated(None, 3, time.wall, "p"))
    view.take(stated(4, 3, time.wall))
    rules = [stated(4, 3, time.wall).rule, stated(5, 4, time.wall, "p").rule, stated(6, 5, time.wall).rule]
    for _ in range(2):
        view.accept(Snapshot(RuleIndex(rules), 6, int(time.wall), int(time.wall) + 300, "mark"), view.now())
    assert told == ["p", "rule_4", "rule_6"]
