"""Real servers for the tests of backends: one OpenBao, one moto."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.moto_aws import Relay, environment, moto_server, relay_to, reset
from tests.support.openbao import OpenBao
from tests.support.postgres import Postgres


@pytest.fixture(scope="session")
def bao(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """A real OpenBao that leases roles of the PostgreSQL, and has values and certificates besides."""
    with OpenBao(audit=tmp_path_factory.mktemp("bao") / "audit") as server:
        server.with_broker_policy()
        server.with_database(postgres)
        server.with_values({"demo": {"user": "app", "password": "stored-password"}})
        server.with_certificates()
        yield server


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of AWS, as moto has it."""
    with moto_server(tmp_path_factory.mktemp("moto")) as url:
        yield url


@pytest.fixture
def aws(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """An empty AWS account, behind a relay that records what is asked."""
    reset(moto)
    environment(monkeypatch)
    with relay_to(moto) as relay:
        yield relay
