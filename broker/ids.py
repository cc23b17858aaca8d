"""Names that nobody can guess and that never repeat, behind the ``Ids`` port."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator

from ulid import ULID

_CODE_BYTES = 32
_RANDOM_BYTES = 10
_FETCHED = 256 * _RANDOM_BYTES


class RandomIds:
    """ULIDs (48 bits of time, 80 random bits from the operating system), and one-time codes."""

    def __init__(self) -> None:
        """Randomness for ids is fetched for many at a time; a forked process starts with none of its parent's."""
        self._random: Iterator[bytes] = iter(())
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._random = iter(())

    def _fresh(self) -> bytes:
        fresh = next(self._random, None)
        if fresh is None:
            pool = os.urandom(_FETCHED)
            self._random = iter([pool[at : at + _RANDOM_BYTES] for at in range(0, _FETCHED, _RANDOM_BYTES)])
            fresh = next(self._random)
        return fresh

    def new(self, prefix: str) -> str:
        """Return ``<prefix>_<ULID>``.

        All 80 bits are fresh: the library's own generator counts up within a millisecond, which could be guessed.
        """
        moment = int(time.time() * 1000).to_bytes(6, "big")
        return f"{prefix}_{ULID.from_bytes(moment + self._fresh())}"

    def secret(self) -> str:
        """Return 256 random bits as URL-safe text."""
        return secrets.token_urlsafe(_CODE_BYTES)
