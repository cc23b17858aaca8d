"""Actions: what a resource server does for an agent, reserved against the budget before, settled with its outcome."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

DONE: Final = "done"
NOT_DONE: Final = "not_done"
OUTCOMES: Final = (DONE, NOT_DONE)
"""How an action can be settled. What was not done goes back into the budget; what was never settled counts as done."""

MAX_COUNT: Final = 1000
MAX_TARGET: Final = 512

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One reservation, as it was made. Times are Unix seconds.

    ``name`` is the action, ``count`` how many of it; ``target`` what it is done to (text from the resource server) and
    ``digest`` (``sha256:`` and hex) of its arguments, as far as it said. ``token`` is the id of the token that was
    presented, ``agent`` who presented it, ``task`` whose budget it is taken from; ``by`` is the resource server.
    After ``settle_by`` it cannot be settled any more.
    """

    id: str
    name: str
    count: int
    task: str
    token: str
    agent: str
    audience: str
    by: str
    reserved_at: float
    settle_by: float
    target: str | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionState:
    """A reservation and what became of it: ``outcome`` is None until it is settled."""

    action: Action
    outcome: str | None = None
    result: str | None = None
    settled_at: float | None = None


def is_digest(text: str) -> bool:
    """Whether ``text`` is ``sha256:`` and 64 hexadecimal digits in lower case."""
    return _DIGEST.fullmatch(text) is not None
