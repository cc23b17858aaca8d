"""The real servers that backends are held against."""

from __future__ import annotations

from tests.backends.conftest import bao, postgres

__all__ = ["bao", "postgres"]
