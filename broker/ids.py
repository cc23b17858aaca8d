"""Names that nobody can guess and that never repeat, behind the ``Ids`` port."""

from __future__ import annotations

import os
import secrets
import time

from ulid import ULID

_CODE_BYTES = 32
_RANDOM_BYTES = 10


class RandomIds:
    """ULIDs (48 bits of time, 80 random bits from the operating system), and one-time codes."""

    def new(self, prefix: str) -> str:
        """Return ``<prefix>_<ULID>``.

        All 80 bits are fresh: the library's own generator counts up within a millisecond, which could be guessed.
        """
        moment = int(time.time() * 1000).to_bytes(6, "big")
        return f"{prefix}_{ULID.from_bytes(moment + os.urandom(_RANDOM_BYTES))}"

    def secret(self) -> str:
        """Return 256 random bits as URL-safe text."""
        return secrets.token_urlsafe(_CODE_BYTES)
