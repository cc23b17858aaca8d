"""How old a view of the revocation rules is, and that it never goes back."""

from math import inf

import pytest

from broker.core.errors import Code, Unavailable
from broker.core.rules import RuleIndex
from broker.core.snapshot import Snapshot
from broker.verifier.view import RolledBack, View
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
