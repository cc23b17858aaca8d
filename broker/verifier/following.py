"""Doing something again and again: at its pace while it works, with back-off and jitter while it fails."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from broker.core.errors import BrokerError
from broker.core.pacing import Backoff, Timing

MAX_RETRY_AFTER: Final = 30.0
"""The longest that a ``Retry-After`` of the broker is honoured, in seconds: meanwhile nobody is served."""

_log: Final = logging.getLogger("broker.verifier")


async def follow(
    what: str,
    work: Callable[[], Awaitable[None]],
    *,
    every: float,
    backoff: Backoff,
    timing: Timing,
    rest: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Do ``work`` until cancelled, at least once in ``every`` seconds as long as it succeeds.

    If there is a ``rest``, that is what waits after a success. A failure never ends the loop. The first in a row is
    logged as a warning, and so is the end of them; what depends on the work grows stale in the meantime and refuses.
    """
    failures = 0
    while True:
        pause = every * (0.8 + timing.spread() / 5)
        try:
            await work()
        except BrokerError as error:
            _log.log(_level(failures), "%s failed: %s (%s)", what, error.code.value, error.public)
            pause = max(backoff.delay(failures, timing.spread()), min(error.retry_after or 0, MAX_RETRY_AFTER))
            failures += 1
        except Exception as error:  # noqa: BLE001 - the loop outlives a defect; only the error's type is safe to log
            _log.error("%s failed unexpectedly: %s", what, type(error).__name__)
            pause = backoff.delay(failures, timing.spread())
            failures += 1
        else:
            if failures:
                _log.warning("%s works again after %d failures", what, failures)
            failures = 0
            if rest is not None:
                await rest()
                continue
        await timing.sleep(pause)


def _level(failures: int) -> int:
    return logging.WARNING if failures == 0 else logging.DEBUG
