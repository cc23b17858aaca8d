"""A broker's use cases over a real ledger, for each law to be tried on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.world import World, durable_world


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return where the ledger is."""
    return tmp_path / "ledger.db"


@pytest.fixture
async def world(file: Path) -> AsyncIterator[World]:
    """A broker of its own for each test."""
    async with durable_world(file) as running:
        yield running
