"""A running broker for the foreign clients, and the agent that they sign in as."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.running_broker import RunningBroker


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """A running broker."""
    running = RunningBroker(tmp_path_factory.mktemp("broker"))
    running.initialise()
    running.start()
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def key(broker: RunningBroker) -> Path:
    """The private key of the registered agent ``alpha``."""
    return broker.agent("alpha")
