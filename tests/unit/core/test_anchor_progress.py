from __future__ import annotations

import pytest

from broker.core.anchor_progress import AnchorProgress
from broker.core.errors import AnchorFailed, Code


def failed(code: Code) -> AnchorFailed:
    """Return a failure."""
    return AnchorFailed(code, "no")


def test_nothing_waits_at_first() -> None:
    """An anchor that has everything has no lag, however long nothing happens."""
    progress = AnchorProgress(alarm_seconds=10, size=5)
    progress.saw(5, 100.0)
    assert (progress.lag_entries(), progress.lag_seconds(1e6), progress.alarm(1e6)) == (0, 0.0, None)


def test_the_lag_is_that_of_the_oldest_checkpoint_that_waits() -> None:
    """Later ones do not make it younger; placing what was the newest when it began leaves what came meanwhile."""
    progress = AnchorProgress(alarm_seconds=10, size=5)
    progress.saw(7, 100.0)
    progress.saw(9, 104.0)
    assert (progress.lag_entries(), progress.lag_seconds(105.0)) == (4, 5.0)
    progress.placed(7, begun=103.0)
    assert (progress.lag_entries(), progress.lag_seconds(105.0)) == (2, 2.0)
    progress.placed(9, begun=105.0)
    assert (progress.lag_entries(), progress.lag_seconds(105.0)) == (0, 0.0)


def test_a_lag_becomes_an_alarm_with_the_last_reason() -> None:
    """Failing alone is none; not before the time, and not after it was placed."""
    progress = AnchorProgress(alarm_seconds=10)
    progress.saw(1, 100.0)
    progress.failed(failed(Code.ANCHOR_REFUSED))
    assert progress.alarm(110.0) is None
    alarm = progress.alarm(110.5)
    assert alarm is not None
    assert alarm.code is Code.ANCHOR_REFUSED
    progress.placed(1, begun=111.0)
    assert (progress.alarm(1e6), progress.failures) == (None, 0)


def test_an_anchor_that_never_answered_is_unavailable() -> None:
    """There is a reason even if no attempt has ended."""
    progress = AnchorProgress(alarm_seconds=10)
    progress.saw(1, 0.0)
    alarm = progress.alarm(11.0)
    assert alarm is not None
    assert alarm.code is Code.ANCHOR_UNAVAILABLE


@pytest.mark.parametrize("code", [Code.ANCHOR_INCONSISTENT, Code.ANCHOR_LOST])
def test_contradictions_are_an_alarm_at_once(code: Code) -> None:
    """Without any lag."""
    progress = AnchorProgress(alarm_seconds=1e9)
    progress.failed(failed(code))
    alarm = progress.alarm(0.0)
    assert alarm is not None
    assert alarm.code is code
