"""The wall clock of this machine, behind the ``Clock`` port."""

from __future__ import annotations

import time


class SystemClock:
    """Unix time as the operating system tells it."""

    def now(self) -> float:
        """Unix seconds."""
        return time.time()
