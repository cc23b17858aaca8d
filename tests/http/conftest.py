"""A running broker for the tests of its HTTP surface."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop

from tests.support.broker_app import BrokerApp, Template, make_template, running_app

TOUCH_CONNECTIONS = {"test_server.py", "test_gate.py", "test_overload.py", "test_stream.py"}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run on the event loop that ``broker serve`` uses; what touches connections, on the standard one as well."""
    both = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return both if item.path.name in TOUCH_CONNECTIONS else {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """Return a broker's folder to copy."""
    return make_template(tmp_path_factory.mktemp("template") / "broker")


@pytest.fixture
async def app(template: Template, tmp_path: Path) -> AsyncIterator[BrokerApp]:
    """Run a broker with the usual limits."""
    async with running_app(template, tmp_path / "broker") as running:
        yield running
