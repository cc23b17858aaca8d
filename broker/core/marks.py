"""The mark of an epoch: what a verifier can only know if the broker has told it of that epoch.

Every signed statement of the rules carries the mark of its epoch, and an acknowledgement repeats it. All processes of
one broker make the same marks, for they derive the key from the same master key.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from broker.core import base64url

PURPOSE: Final = "epoch-marks"
"""What the key of marks is derived for."""

_BYTES: Final = 16


def mark_of(key: bytes, epoch: int) -> str:
    """Return the mark of an epoch: 22 characters that nobody can guess who has not the ``key``."""
    return base64url.encode(hmac.digest(key, str(epoch).encode(), hashlib.sha256)[:_BYTES])


def is_mark(key: bytes, epoch: int, mark: str) -> bool:
    """Whether this is the mark of an epoch, in a time that tells nothing of the right one."""
    return hmac.compare_digest(mark_of(key, epoch).encode(), mark.encode("utf-8", "surrogatepass"))
