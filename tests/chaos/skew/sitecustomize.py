"""Sets the wall clock of every Python process that finds this on its path ahead by ``CHAOS_SKEW`` seconds.

It stands for a host whose clock is wrong. Python loads it before anything else, in the children of a process, too.
"""

from __future__ import annotations

import os
import time

_ahead = float(os.environ.get("CHAOS_SKEW", "0"))
_right = time.time


def _wrong() -> float:
    return _right() + _ahead


time.time = _wrong
