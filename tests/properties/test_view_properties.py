"""Whatever happens to clocks and snapshots, a view that counts as fresh misses no rule that is older than the bound."""

from hypothesis import given
from hypothesis import strategies as st

from broker.core.rules import RuleIndex
from broker.core.snapshot import Snapshot
from broker.verifier.view import RolledBack, View
from tests.support.virtual_time import START, VirtualTime

BOUND = 10.0
LEEWAY = 5.0

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.floats(0, 30)),
        st.tuples(st.just("revoke"), st.just(0.0)),
        st.tuples(st.just("poll"), st.floats(0, 8)),
        st.tuples(st.just("replay"), st.floats(0, 1)),
        st.tuples(st.just("step"), st.floats(-LEEWAY, LEEWAY)),
    ),
    max_size=40,
)


class World:
    """A broker with true time, a verifier whose wall clock is wrong by at most the leeway, and a thief of snapshots."""

    def __init__(self) -> None:
        self.time = VirtualTime()
        self.true = START
        self.view = View(self.time.timing(), max_staleness=BOUND, leeway=LEEWAY)
        self.made_at: list[float] = []
        self.published: list[Snapshot] = []

    def happen(self, what: str, value: float) -> None:
        """Let one event happen."""
        match what:
            case "pass":
                self.passes(value)
            case "revoke":
                self.made_at.append(self.true)
            case "poll":
                asked, snapshot = self.view.now(), self.publish()
                self.passes(value)
                self.deliver(snapshot, asked)
            case "replay" if self.published:
                self.deliver(self.published[int(value * (len(self.published) - 1))], self.view.now())
            case "step":
                self.time.wall = self.true + value
            case _:
                pass  # nothing was published that could be replayed

    def passes(self, seconds: float) -> None:
        """Let time pass, for everybody."""
        self.true += seconds
        self.time.advance(seconds)

    def publish(self) -> Snapshot:
        """What the broker says now."""
        epoch, issued_at = len(self.made_at), int(self.true)
        snapshot = Snapshot(RuleIndex(epoch=epoch), epoch, issued_at, issued_at + 300, "mark")
        self.published.append(snapshot)
        return snapshot

    def deliver(self, snapshot: Snapshot, asked: object) -> None:
        """Give the verifier a snapshot; it may refuse."""
        before = self.view.epoch
        try:
            self.view.accept(snapshot, asked)  # type: ignore[arg-type]
        except RolledBack:
            assert before is not None
            assert self.view.epoch == before


@given(events=EVENTS)
def test_a_fresh_view_knows_every_rule_that_is_old_enough(events: list[tuple[str, float]]) -> None:
    """Old enough: older than the bound and what clocks may differ on both occasions. And epochs never go back."""
    world, highest = World(), -1
    for what, value in events:
        world.happen(what, value)
        epoch = world.view.epoch
        if epoch is None:
            continue
        assert epoch >= highest
        highest = epoch
        if world.view.is_fresh():
            due = sum(made <= world.true - BOUND - 2 * LEEWAY - 1 for made in world.made_at)
            assert epoch >= due
