"""Time and names that nobody can guess."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """The wall clock. A use case reads it once per operation."""

    def now(self) -> float:
        """Unix seconds."""
        ...


class Ids(Protocol):
    """Makes names that nobody can guess and that never repeat."""

    def new(self, prefix: str) -> str:
        """Return ``<prefix>_<ULID>``: sortable by time, with 80 random bits."""
        ...

    def secret(self) -> str:
        """Return 256 random bits as URL-safe text, for one-time codes."""
        ...
