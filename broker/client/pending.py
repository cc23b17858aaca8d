"""Answers that say that a person has to decide first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

DEFAULT_INTERVAL: Final = 5
"""Seconds between two questions when the broker names none (CIBA, 7.3)."""

LONGEST_INTERVAL: Final = 600
MAX_ID: Final = 128

_ID: Final = re.compile(rf"[A-Za-z0-9._~-]{{1,{MAX_ID}}}")
_PENDING: Final = frozenset({"authorization_pending", "slow_down"})


@dataclass(frozen=True, slots=True)
class Pending:
    """A person has to decide first. Times are in seconds.

    ``expires_in`` is how long there is for that, ``interval`` how long to wait before asking again; ``too_fast`` says
    that the last question came too soon, and that all further ones must wait longer.
    """

    auth_req_id: str
    expires_in: int
    interval: int
    too_fast: bool = False


def read_pending(body: Mapping[str, Any], before: str | None, *, reason: str = "error") -> Pending | None:
    """Read an answer that says that a person has to decide first; None if it says something else.

    ``before`` is the id that the request went on with: an answer to that need not repeat it (CIBA, 11). ``reason`` is
    the member that says why: ``error`` at the token endpoint, ``code`` everywhere else.
    """
    auth_req_id, why = body.get("auth_req_id", before), body.get(reason)
    if not (isinstance(why, str) and why in _PENDING and isinstance(auth_req_id, str) and _ID.fullmatch(auth_req_id)):
        return None
    interval, expires_in = body.get("interval"), body.get("expires_in")
    return Pending(
        auth_req_id=auth_req_id,
        expires_in=max(0, expires_in) if is_count(expires_in) else 0,
        interval=min(interval, LONGEST_INTERVAL) if is_count(interval) and interval > 0 else DEFAULT_INTERVAL,
        too_fast=why == "slow_down",
    )


def is_count(value: object) -> TypeGuard[int]:
    """Whether a JSON value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)
