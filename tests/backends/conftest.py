"""One PostgreSQL and one OpenBao for all tests of the ``vault`` backend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.openbao import OpenBao
from tests.support.postgres import Postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL."""
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def bao(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """A real OpenBao that leases roles of the PostgreSQL, and has values and certificates besides."""
    with OpenBao(audit=tmp_path_factory.mktemp("bao") / "audit") as server:
        server.with_broker_policy()
        server.with_database(postgres)
        server.with_values({"demo": {"user": "app", "password": "stored-password"}})
        server.with_certificates()
        yield server
