"""A broker's use cases over a real ledger, for each law to be tried on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.ports import Place
from tests.support.postgres import Postgres
from tests.support.world import World, durable_world


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let each law be tried on each kind of ledger, unless the test looks into the file itself."""
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", ["sqlite"] if "file" in metafunc.fixturenames else ["sqlite", "postgresql"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return where the ledger is."""
    return tmp_path / "ledger.db"


@pytest.fixture
def where(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Return where the ledger is, of any kind."""
    if kind == "sqlite":
        return tmp_path / "ledger.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.emptied_ledger(tmp_path / "ledger")


@pytest.fixture
async def world(where: Place) -> AsyncIterator[World]:
    """A broker of its own for each test."""
    async with durable_world(where) as running:
        yield running
