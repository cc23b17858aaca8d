"""The places that a ledger can be in, what holds for one holds for each; and signals that reach what tests start."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.ports import Place
from tests.support.postgres import Postgres


def pytest_configure() -> None:
    """Hand down no ignored signals: a shell ignores some for what it runs in the background, children included."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL, one for each process that runs tests."""
    with Postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place for a ledger, of each kind: where there is none yet, or an empty one."""
    if request.param == "sqlite":
        return tmp_path / "ledger.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.emptied_ledger(tmp_path / "ledger")
