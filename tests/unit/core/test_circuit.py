"""A circuit opens when everything fails, is tried by one call after a pause, and closes when that is answered."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker.core.circuit import FAILURES, WITHIN_SECONDS, Circuit, CircuitState, Passage


def _enter(circuit: Circuit, now: float) -> Passage:
    passage = circuit.enter(now)
    assert passage is not None
    return passage


def _fail(circuit: Circuit, now: float, times: int = 1, spread: float = 0.0) -> None:
    for _ in range(times):
        circuit.failed(_enter(circuit, now), now, spread)


def test_five_failures_in_a_row_open_it() -> None:
    """The fifth opens it; before that, calls pass."""
    circuit = Circuit()
    _fail(circuit, 100.0, FAILURES - 1)
    assert circuit.state(100.0) is CircuitState.CLOSED
    _fail(circuit, 100.0)
    assert circuit.state(100.0) is CircuitState.OPEN
    assert circuit.enter(100.0) is None
    assert circuit.retry_in(100.0) == pytest.approx(1.0)


def test_an_answer_ends_the_row() -> None:
    """Whoever answers now and then is not broken."""
    circuit = Circuit()
    for _ in range(3):
        _fail(circuit, 0.0, FAILURES - 1)
        circuit.answered(_enter(circuit, 0.0))
    assert circuit.state(0.0) is CircuitState.CLOSED


def test_failures_far_apart_do_not_open_it() -> None:
    """Five failures over a long time are five single ones, until five come together."""
    circuit = Circuit()
    step = WITHIN_SECONDS / (FAILURES - 1) + 0.1
    for turn in range(20):
        _fail(circuit, turn * step)
    assert circuit.state(20 * step) is CircuitState.CLOSED
    _fail(circuit, 19 * step)
    assert circuit.state(19 * step) is CircuitState.OPEN


def test_after_the_pause_one_call_is_the_trial() -> None:
    """While that one runs, no other passes; its answer closes the circuit for all."""
    circuit = Circuit()
    _fail(circuit, 0.0, FAILURES)
    assert circuit.state(1.0) is CircuitState.HALF_OPEN
    trial = _enter(circuit, 1.0)
    assert circuit.enter(1.0) is None
    assert circuit.state(1.0) is CircuitState.HALF_OPEN
    circuit.answered(trial)
    assert circuit.state(1.0) is CircuitState.CLOSED
    assert circuit.enter(1.0) is not None


def test_pauses_grow_up_to_a_minute_and_begin_anew() -> None:
    """Each failed trial doubles the pause; an answered one forgets them."""
    circuit, now = Circuit(), 0.0
    _fail(circuit, now, FAILURES, spread=0.999_999)
    pauses = []
    for _ in range(8):
        pause = circuit.retry_in(now)
        assert pause is not None
        pauses.append(round(pause))
        now += pause
        _fail(circuit, now, spread=0.999_999)
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]
    now += 60.0
    circuit.answered(_enter(circuit, now))
    _fail(circuit, now, FAILURES)
    assert circuit.retry_in(now) == pytest.approx(1.0)


def test_a_trial_that_was_cancelled_lets_the_next_one_try() -> None:
    """It says nothing, so the circuit stays as it is, and is not shut for ever."""
    circuit = Circuit()
    _fail(circuit, 0.0, FAILURES)
    circuit.left(_enter(circuit, 1.0))
    assert circuit.state(1.0) is CircuitState.HALF_OPEN
    assert _enter(circuit, 1.0).trial


def test_one_bad_moment_does_not_open_it() -> None:
    """However many were under way in it: the next call is made, and its answer is what counts."""
    circuit = Circuit()
    together = [_enter(circuit, 0.0) for _ in range(10 * FAILURES)]
    after = None
    for passage in together:
        circuit.failed(passage, 10.0, 0.0)
        after = after or _enter(circuit, 10.0)
    assert circuit.state(10.0) is CircuitState.CLOSED
    assert after is not None
    circuit.answered(after)
    assert circuit.state(10.0) is CircuitState.CLOSED


@pytest.mark.parametrize("seconds", [0.0, 10.0, 300.0])
def test_what_was_begun_after_a_failure_and_failed_too_opens_it(seconds: float) -> None:
    """It lasts. How long the calls had to wait for their failures does not matter."""
    circuit = Circuit()
    for passage in [_enter(circuit, 0.0) for _ in range(FAILURES)]:
        circuit.failed(passage, seconds, 0.0)
    assert circuit.state(seconds) is CircuitState.CLOSED
    later = [_enter(circuit, seconds) for _ in range(FAILURES)]
    for passage in later:
        circuit.failed(passage, 2 * seconds, 0.0)
    assert circuit.state(2 * seconds) is CircuitState.OPEN


def test_a_bad_moment_after_an_answer_is_the_first_of_its_kind() -> None:
    """What failed before the answer says nothing about what was begun before it, and fails after it."""
    circuit = Circuit()
    _fail(circuit, 0.0)
    together = [_enter(circuit, 0.0) for _ in range(FAILURES)]
    circuit.answered(_enter(circuit, 0.0))
    for passage in together:
        circuit.failed(passage, 10.0, 0.0)
    assert circuit.state(10.0) is CircuitState.CLOSED


def test_reports_from_before_say_nothing() -> None:
    """Calls that began before the circuit opened neither close it nor lengthen the pause, however they end."""
    circuit = Circuit()
    early = [_enter(circuit, 0.0) for _ in range(3)]
    _fail(circuit, 0.0, FAILURES)
    pause = circuit.retry_in(0.0)
    circuit.answered(early[-1])
    circuit.failed(early[-2], 0.5, 0.9)
    circuit.left(early[-3])
    assert circuit.state(0.0) is CircuitState.OPEN
    assert circuit.retry_in(0.0) == pause


class AnyOrder(RuleBasedStateMachine):
    """Calls begin, end in any order and any way, and time goes on; what the states promise holds throughout."""

    def __init__(self) -> None:
        super().__init__()
        self.circuit = Circuit()
        self.now = 0.0
        self.running: list[tuple[Passage, int]] = []
        """The calls, and how many had failed when each of them began."""
        self.failed = 0
        self.row = 0
        self.before_row = 0

    @rule(seconds=st.floats(0.0, 90.0))
    def wait(self, seconds: float) -> None:
        """Time goes on."""
        self.now += seconds

    @rule()
    def begin(self) -> None:
        """A call passes exactly if there is nothing to wait for."""
        may = self.circuit.retry_in(self.now) is None
        passage = self.circuit.enter(self.now)
        assert (passage is not None) is may
        if passage is not None:
            self.running.append((passage, self.failed))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), spread=st.floats(0.0, 1.0, exclude_max=True))
    def fail(self, data: st.DataObject, spread: float) -> None:
        """A call fails: only a trial, or the last of a row, opens the circuit, and for a bounded time."""
        passage, failed_before = self._end(data)
        before = self.circuit.state(self.now)
        self.circuit.failed(passage, self.now, spread)
        if self.row == 0:
            self.before_row = self.failed
        self.failed += 1
        self.row += 1
        if before is CircuitState.CLOSED and self.circuit.state(self.now) is not CircuitState.CLOSED:
            assert self.row >= FAILURES
            assert failed_before > self.before_row
        if passage.trial and before is CircuitState.HALF_OPEN:
            assert self.circuit.state(self.now) is CircuitState.OPEN
        pause = self.circuit.retry_in(self.now)
        assert pause is None or 0.0 < pause <= 60.0

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        """A call is answered: a circuit is open no more if that was its trial, and unmoved if it was open."""
        passage, _ = self._end(data)
        before = self.circuit.state(self.now)
        if passage.period == self.circuit._period:
            self.row = 0
        self.circuit.answered(passage)
        if before is CircuitState.OPEN:
            assert self.circuit.state(self.now) is CircuitState.OPEN
        if passage.trial:
            assert self.circuit.state(self.now) is CircuitState.CLOSED

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A call that was cancelled changes no state."""
        passage, _ = self._end(data)
        before = self.circuit.state(self.now)
        self.circuit.left(passage)
        assert self.circuit.state(self.now) is before

    @invariant()
    def one_trial(self) -> None:
        """There is never more than one trial, and the circuit is half open while it runs."""
        trials = [passage for passage, _ in self.running if passage.trial]
        assert len(trials) <= 1
        if trials:
            assert self.circuit.state(self.now) is CircuitState.HALF_OPEN

    @invariant()
    def not_shut_for_ever(self) -> None:
        """Unless a trial runs, a call passes a minute from now at the latest."""
        if not any(passage.trial for passage, _ in self.running):
            assert self.circuit.retry_in(self.now + 60.0) is None

    def _end(self, data: st.DataObject) -> tuple[Passage, int]:
        return self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
