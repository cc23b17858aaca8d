"""Lifetimes: durations such as ``15m`` or ``1h30m``, in whole seconds, both ways."""

from __future__ import annotations

import re
from typing import Final

from broker.core.errors import Malformed

MAX_SECONDS: Final = 366 * 24 * 3600
"""The longest duration anybody may write: a leap year."""

_HOUR: Final = 3600
_MINUTE: Final = 60
_PART: Final = r"(?:([1-9][0-9]{{0,7}}){unit})?"
_DURATION: Final = re.compile("".join(_PART.format(unit=unit) for unit in "hms"))


def parse_duration(text: str, name: str = "duration") -> int:
    """Return the seconds of a duration: ``90s``, ``15m``, ``1h``, ``1h30m``; never zero, never over a year.

    Units stand in falling order, each once; the first may be as large as it likes, a later one is below 60. ``name`` is
    the field to speak of. Raises ``Malformed``.
    """
    found = _DURATION.fullmatch(text)
    if not text or found is None:
        raise Malformed(f"{name}: must be a duration such as 90s, 15m, 1h or 1h30m")
    hours, minutes, seconds = (int(part) if part else 0 for part in found.groups())
    if (hours and minutes >= _MINUTE) or ((hours or minutes) and seconds >= _MINUTE):
        raise Malformed(f"{name}: minutes and seconds after a larger unit must be below 60")
    total = hours * _HOUR + minutes * _MINUTE + seconds
    if total > MAX_SECONDS:
        raise Malformed(f"{name}: longer than {format_duration(MAX_SECONDS)}")
    return total


def format_duration(seconds: int) -> str:
    """Return the shortest text that :func:`parse_duration` reads as ``seconds`` (at least 1)."""
    if seconds < 1:
        raise ValueError(f"a duration is at least one second, not {seconds}")
    hours, rest = divmod(seconds, _HOUR)
    minutes, rest = divmod(rest, _MINUTE)
    parts = ((hours, "h"), (minutes, "m"), (rest, "s"))
    return "".join(f"{count}{unit}" for count, unit in parts if count)
