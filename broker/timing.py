"""The clocks of this machine, and its randomness."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

from broker.core.pacing import Timing


def _elapsed() -> float:
    """Seconds that also pass while the machine is suspended, where the system has such a clock."""
    return time.clock_gettime(_BOOT_CLOCK) if _BOOT_CLOCK is not None else time.monotonic()


_BOOT_CLOCK: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)

SYSTEM: Final = Timing(wall=time.time, elapsed=_elapsed, sleep=asyncio.sleep, spread=random.SystemRandom().random)
