"""Sets the wall clock of every Python process that finds this on its path ahead, by what is in a file at the moment.

It stands for a host whose clock is wrong, or is set while everything runs. ``CHAOS_SKEW`` names the file: one double,
the seconds. Python loads this before anything else, in the children of a process, too.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path

with Path(os.environ["CHAOS_SKEW"]).open("rb") as _file:
    _ahead = mmap.mmap(_file.fileno(), 8, access=mmap.ACCESS_READ)

_right = time.time


def _wrong() -> float:
    ahead: float = struct.unpack("d", _ahead)[0]
    return _right() + ahead


time.time = _wrong
