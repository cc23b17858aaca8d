"""A rule is never called applied while somebody who is known, and runs, may still accept what it hits."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.core.propagation import MARGIN, MAX_AGE, Moments, Present, Replica, Verifier, propagation_of

SEEDS = st.integers(0, 1000)
LONGEST_LAG = 30.0


@dataclass
class Process:
    """A replica: what it knows, and when the read of the head began that confirmed it last."""

    id: str
    bound: float
    epoch: int
    confirmed: float
    runs: bool = True


@dataclass
class Listener:
    """A verifier: what it knows, and when the youngest statement was made that it has."""

    name: str
    bound: float
    epoch: int
    issued: float
    runs: bool = True


@dataclass
class Table:
    """What processes have told."""

    replicas: dict[str, tuple[int, float]] = field(default_factory=dict)
    verifiers: dict[str, tuple[int, float]] = field(default_factory=dict)

    def present(self) -> Present:
        """Return everybody who is known."""
        return Present(
            [
                Replica(id=name, host="h", pid=1, version="1", policy="p", epoch=epoch, max_staleness=bound)
                for name, (epoch, bound) in self.replicas.items()
            ],
            [
                Verifier(agent="payments", name=name, epoch=epoch, max_age=bound)
                for name, (epoch, bound) in self.verifiers.items()
            ],
        )


class Broker(RuleBasedStateMachine):
    """Replicas and verifiers with random delays, losses, silence, joins, ends; and one process that says what it knows.

    What is lost is simply never delivered; what is late is delivered after others.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.epoch = 0
        self.processes: list[Process] = []
        self.listeners: list[Listener] = []
        self.table = Table()
        self.sent: list[tuple[str, int, float]] = []
        self.moments = Moments(0, self.now)

    @initialize()
    def some_are_there(self) -> None:
        """A replica that is seldom behind, one that may be so for long, and a verifier."""
        self.a_replica_joins(1.0)
        self.a_replica_joins(LONGEST_LAG)
        self.a_verifier_joins(1, 15.0)

    @rule(seconds=st.sampled_from([0.3, 5.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        """By every clock."""
        self.now += seconds

    @rule(here=st.booleans())
    def a_rule_is_committed(self, *, here: bool) -> None:
        """In the process that is asked for it, or elsewhere: then nobody has heard of it yet."""
        self.epoch += 1
        if here:
            self.the_asked_process_hears_of_it()

    @rule()
    def the_asked_process_hears_of_it(self) -> None:
        """Some time after the commit."""
        self.moments.note(self.epoch, self.now)

    @rule(bound=st.sampled_from([1.0, LONGEST_LAG]))
    def a_replica_joins(self, bound: float) -> None:
        """It reads the head, and is in the table before it answers anybody."""
        new = Process(f"rep_{len(self.processes)}", bound, self.epoch, self.now)
        self.processes.append(new)
        self.table.replicas[new.id] = (new.epoch, bound)

    @precondition(lambda self: self.processes)
    @rule(which=SEEDS, tells=st.booleans())
    def a_replica_catches_up(self, which: int, *, tells: bool) -> None:
        """What it tells of that may be lost."""
        process = self.processes[which % len(self.processes)]
        if process.runs:
            process.epoch, process.confirmed = self.epoch, self.now
            if tells:
                self.table.replicas[process.id] = (process.epoch, process.bound)

    @precondition(lambda self: self.processes)
    @rule(which=SEEDS)
    def a_replica_dies(self, which: int) -> None:
        """Without a word."""
        self.processes[which % len(self.processes)].runs = False

    @precondition(lambda self: any(self.speaks(process) for process in self.processes))
    @rule(which=SEEDS, bound=st.sampled_from([0.5, 15.0]))
    def a_verifier_joins(self, which: int, bound: float) -> None:
        """It takes a snapshot from some replica, maybe one that is behind, and acknowledges before it accepts."""
        source = self.speaker(which)
        new = Listener(f"gw-{len(self.listeners)}", bound, source.epoch, self.now)
        self.listeners.append(new)
        self.table.verifiers[new.name] = (new.epoch, bound)

    @precondition(lambda self: self.listeners and any(self.speaks(process) for process in self.processes))
    @rule(which=SEEDS, source=SEEDS)
    def a_verifier_hears(self, which: int, source: int) -> None:
        """A statement never takes its view back; one of its own epoch makes the view younger."""
        listener, process = self.listeners[which % len(self.listeners)], self.speaker(source)
        if listener.runs and process.epoch >= listener.epoch:
            listener.epoch, listener.issued = process.epoch, self.now

    @precondition(lambda self: self.listeners)
    @rule(which=SEEDS)
    def a_verifier_acknowledges(self, which: int) -> None:
        """On its way for any time."""
        listener = self.listeners[which % len(self.listeners)]
        if listener.runs:
            self.sent.append((listener.name, listener.epoch, listener.bound))

    @precondition(lambda self: self.sent)
    @rule(which=SEEDS)
    def an_acknowledgement_arrives(self, which: int) -> None:
        """In any order, and again and again: an older one is not news."""
        name, epoch, bound = self.sent[which % len(self.sent)]
        known = self.table.verifiers.get(name, (0, 0.0))
        if epoch >= known[0]:
            self.table.verifiers[name] = (epoch, bound)

    @precondition(lambda self: self.listeners)
    @rule(which=SEEDS, says=st.booleans())
    def a_verifier_ends(self, which: int, *, says: bool) -> None:
        """It may say so, after it has stopped to accept."""
        listener = self.listeners[which % len(self.listeners)]
        listener.runs = False
        if says:
            self.table.verifiers.pop(listener.name, None)

    @invariant()
    def applied_is_the_truth(self) -> None:
        """Of every rule, at every moment."""
        present = self.table.present()
        for number in range(1, self.epoch + 1):
            seen = propagation_of(number, self.moments.since(number, self.now), present)
            if seen.applied:
                assert not self.who_may_accept(number)
            else:
                assert seen.waiting_for

    def teardown(self) -> None:
        """Nobody waits for ever: once every bound is over, each rule that was heard of is applied."""
        self.moments.note(self.epoch, self.now)
        self.now += MAX_AGE + LONGEST_LAG + MARGIN + 1
        for number in range(1, self.epoch + 1):
            assert propagation_of(number, self.moments.since(number, self.now), self.table.present()).applied
            assert not self.who_may_accept(number)

    def who_may_accept(self, number: int) -> list[str]:
        """Return who runs, does not know the rule, and still believes what it knows."""
        processes = [each.id for each in self.processes if self.speaks(each) and each.epoch < number]
        listeners = [
            each.name
            for each in self.listeners
            if each.runs and each.epoch < number and self.now - each.issued <= each.bound
        ]
        return processes + listeners

    def speaks(self, process: Process) -> bool:
        """Whether a replica answers, and signs statements: as long as it believes what it knows."""
        return process.runs and self.now - process.confirmed <= process.bound

    def speaker(self, which: int) -> Process:
        """Return one of those that speak."""
        speakers = [process for process in self.processes if self.speaks(process)]
        return speakers[which % len(speakers)]


TestPropagation = Broker.TestCase
TestPropagation.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)
