"""Task ids: the unit of work that credentials belong to."""

from __future__ import annotations

import re
from typing import Final

from broker.core.errors import Code, Malformed

_TASK_ID: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:~-]{0,126}[A-Za-z0-9])?")


def parse_task_id(text: str) -> str:
    """Return ``text`` if it can be a task id: 1 to 128 of A-Z a-z 0-9 ``. _ : ~ -``. Raises ``Malformed``."""
    if _TASK_ID.fullmatch(text) is None:
        msg = "task: 1 to 128 ASCII letters, digits and . _ : ~ - (starting and ending with a letter or digit)"
        raise Malformed(msg, Code.TASK_MALFORMED)
    return text
