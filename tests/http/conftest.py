"""A running broker for the tests of its HTTP surface."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.broker_app import BrokerApp, Template, make_template, running_app


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """Return a broker's folder to copy."""
    return make_template(tmp_path_factory.mktemp("template") / "broker")


@pytest.fixture
async def app(template: Template, tmp_path: Path) -> AsyncIterator[BrokerApp]:
    """Run a broker with the usual limits."""
    async with running_app(template, tmp_path / "broker") as running:
        yield running
