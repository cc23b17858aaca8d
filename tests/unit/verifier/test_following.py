"""The background loops: they keep their pace, back off, and never end by themselves."""

import asyncio
import logging

import pytest

from broker.core.errors import Code, Unavailable
from broker.core.pacing import Backoff
from broker.verifier.following import follow
from tests.support.virtual_time import VirtualTime

DOWN = Unavailable(Code.ISSUER_UNAVAILABLE, "no answer")


class Work:
    """Plays a script of outcomes, then ends the test by cancelling the loop."""

    def __init__(self, *script: Exception | None) -> None:
        self._script = list(script)

    async def __call__(self) -> None:
        if not self._script:
            raise asyncio.CancelledError
        outcome = self._script.pop(0)
        if outcome is not None:
            raise outcome


async def pauses(*script: Exception | None, spread: float = 0.5) -> list[float]:
    """The pauses that the loop makes while the script is played."""
    time = VirtualTime(spread=spread)
    with pytest.raises(asyncio.CancelledError):
        await follow("polling", Work(*script), every=1.0, backoff=Backoff(first=1, longest=5), timing=time.timing())
    return time.slept


@pytest.mark.parametrize("spread", [0.0, 0.999])
async def test_while_it_works_it_never_pauses_longer_than_its_pace(spread: float) -> None:
    """A revocation is seen within one poll interval; jitter only shortens the pause."""
    assert all(0.8 <= pause <= 1.0 for pause in await pauses(None, None, None, spread=spread))


async def test_while_it_fails_it_backs_off_and_then_returns_to_its_pace() -> None:
    """Pauses grow up to a bound, and success resets them."""
    slept = await pauses(DOWN, DOWN, DOWN, DOWN, DOWN, None, DOWN)
    assert slept == [0.75, 1.5, 3.0, 3.75, 3.75, 0.9, 0.75]


async def test_retry_after_is_honoured_within_reason() -> None:
    """The broker may ask for patience, but not for so much that nobody is served any more."""
    asked = [Unavailable(Code.ISSUER_UNAVAILABLE, "busy", retry_after=after) for after in (20, 86_400)]
    assert await pauses(*asked) == [20, 30]


async def test_a_defect_does_not_end_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error is logged by its type, without its text, and the loop goes on."""
    assert len(await pauses(RuntimeError("canary-secret"), None)) == 2
    assert "RuntimeError" in caplog.text
    assert "canary-secret" not in caplog.text


async def test_an_outage_is_logged_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    """The log does not fill while the broker is away."""
    with caplog.at_level(logging.INFO, "broker.verifier"):
        await pauses(DOWN, DOWN, DOWN, None, None)
    assert [record.message for record in caplog.records] == [
        "polling failed: issuer_unavailable (no answer)",
        "polling works again after 3 failures",
    ]
