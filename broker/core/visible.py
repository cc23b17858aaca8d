"""Text from outside that people judge by: in one line, and all of it to be seen."""

from __future__ import annotations

import re
from typing import Final

_UNSEEN: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0d\uffa0\U000e0100-\U000e01ef]|[\ufe0e\ufe0f]{2}"
)
"""What counts as printable and shows nothing: fillers, blanks, and the variation selectors, in which any text can be
hidden. One of the last two selectors, which say whether a character is drawn in colour, may stand behind it."""


def is_visible(text: str) -> bool:
    """Whether a reader sees all of a text: no control, formatting or unassigned characters, and nothing unseen."""
    return text.isprintable() and _UNSEEN.search(text) is None
