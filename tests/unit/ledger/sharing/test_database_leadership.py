"""Who leads among the replicas of one database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from broker.ledger.sharing.database_leadership import BELIEVED, DatabaseLeadership
from broker.ledger.sharing.leadership import take_part
from broker.ports import Server
from broker.timing import SYSTEM
from tests.support.postgres import Postgres

PATIENCE = 60.0


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that comes about by itself."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@dataclass
class Elapsed:
    """The elapsed time of this machine, which jumps when the machine was suspended."""

    ahead: float = 0.0

    def __call__(self) -> float:
        return SYSTEM.elapsed() + self.ahead


@pytest.fixture
def server(postgres: Postgres, tmp_path: Path) -> Server:
    """A place for a ledger; what leads needs no tables."""
    return postgres.ledger(tmp_path / "ledger")


@pytest.fixture
def first(server: Server) -> Iterator[DatabaseLeadership]:
    """A replica that leads."""
    leadership = DatabaseLeadership(server)
    until(leadership.leads)
    yield leadership
    leadership.close()


def test_one_leads_until_it_gives_that_up(first: DatabaseLeadership, server: Server) -> None:
    """Then another one does, and not before everybody has heard of it."""
    second = take_part(server, 1)
    assert not second.leads()
    given_up = time.monotonic()
    first.close()
    assert not first.leads()
    until(second.leads)
    assert time.monotonic() - given_up > BELIEVED * 0.9
    second.close()
    assert not second.leads()


def test_who_loses_its_session_leads_no_more_before_another_does(
    first: DatabaseLeadership, server: Server, postgres: Postgres
) -> None:
    """However the server ended it; there are never two, and soon one."""
    second = DatabaseLeadership(server)
    postgres.end_sessions()
    deadline = time.monotonic() + BELIEVED * 2
    while time.monotonic() < deadline:
        assert not (first.leads() and second.leads())
        time.sleep(0.01)
    until(lambda: first.leads() != second.leads())
    second.close()


def test_who_was_suspended_does_not_take_itself_for_the_leader(server: Server) -> None:
    """It may have lost its session meanwhile, and somebody else may lead."""
    elapsed = Elapsed()
    leadership = DatabaseLeadership(server, elapsed)
    until(leadership.leads)
    elapsed.ahead += BELIEVED * 2
    assert not leadership.leads()
    until(leadership.leads)
    leadership.close()


def test_ledgers_in_one_database_have_their_own_leaders(
    first: DatabaseLeadership, postgres: Postgres, tmp_path: Path
) -> None:
    """Each ledger is in a schema of its own."""
    other = DatabaseLeadership(postgres.ledger(tmp_path / "other"))
    until(other.leads)
    assert first.leads()
    other.close()
